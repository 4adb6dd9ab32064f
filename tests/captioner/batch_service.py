"""Who answers files of requests in OpenAI's batch format: a script in the place of a model."""

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.captioner.chat_server import Reply, make_answer, read_image

# As an output line of a batch that came too late has it.
EXPIRED = {
    "response": None,
    "error": {"code": "batch_expired", "message": "This request could not be executed."},
}


def read_requests(folder: Path, number: int | None = None) -> list[dict[str, Any]]:
    """The lines of one file of requests, or of all of them."""
    name = "requests-*.jsonl" if number is None else f"requests-{number:05d}.jsonl"
    paths = sorted(folder.glob(name))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def list_images(requests: Iterable[dict[str, Any]]) -> list[int]:
    """The images that are asked for, in order; 0 is the blank one."""
    found = (read_image(request["body"]) for request in requests)
    return [image for image in found if image is not None]


def answer(
    requests: Iterable[dict[str, Any]],
    script: Callable[[int], Reply] = lambda image: Reply(),
    *,
    probe: Reply | None = None,
) -> list[dict[str, Any]]:
    """A result line for each request; `probe` is the reply to those without a photo."""
    lines = []
    for number, request in enumerate(requests):
        image = read_image(request["body"])
        reply = script(image) if image else probe or Reply()
        answered: dict[str, Any] = {
            "response": {
                "status_code": reply.status,
                "request_id": f"r{number}",
                "body": make_answer(reply, image, image is not None)
                if reply.status == 200
                else {"error": {"message": "something is wrong", "code": None}},
            },
            "error": None,
        }
        if reply.drop:
            answered = EXPIRED
        lines.append({"id": f"batch_req_{number}", "custom_id": request["custom_id"], **answered})
    return lines


def write_answers(path: Path, lines: Iterable[dict[str, Any]], *, shuffle: int = 0) -> None:
    """Write lines in an order that depends on `shuffle`; in their own without it."""
    mixed = list(lines)
    if shuffle:
        random.Random(shuffle).shuffle(mixed)
    path.write_text("".join(json.dumps(line) + "\n" for line in mixed))
