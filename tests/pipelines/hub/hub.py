"""What tests of publishing share: a Hub, a process that runs commands, and a run to publish."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.hub.commands import Commands, Done
from tests.hub.server import HubServer
from tests.hub.state import Hub, User

TOKEN, READER = "hf_secretOfMine123", "hf_secretOfAReader"


@dataclass
class Place:
    """A stand-in, and commands that take it for the Hub, standing in `folder`."""

    server: HubServer
    commands: Commands
    folder: Path

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def clear(self) -> None:
        """A Hub as new, with its users, and no faults."""
        self.server.hub = Hub()
        self.server.hub.users = {TOKEN: User("me", ("club",)), READER: User("reader", writes=False)}
        self.server.faults.clear()
        self.server.requests.clear()

    def publish(self, *arguments: object, **environment: str) -> Done:
        """`d2s publish ARGUMENTS`; whatever it says has no token and no signed address."""
        done = self.commands.run("publish", *arguments, **environment)
        for secret in (TOKEN, READER, "X-Amz-Signature", "Traceback"):
            assert secret not in done.out + done.err
        return done


@contextmanager
def open_place(folder: Path) -> Iterator[Place]:
    """From the start of both to their end."""
    with HubServer() as server:
        environment = {**server.environment(folder / "hf", token=TOKEN), **_QUIET}
        with Commands(environment, folder, hurry=True) as commands:
            place = Place(server, commands, folder)
            place.clear()
            yield place


_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TERM": "dumb"}


def write_photos(folder: Path, count: int) -> None:
    """Small JPEGs of different colours."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (40, 30), (40 * number % 256, 90, 20)).save(folder / f"{number}.jpg")
