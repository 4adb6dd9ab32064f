"""What an engine must do. The runner knows nothing else of it."""

from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from captioner.llava.answer import Answer
from captioner.llava.chat_template import Prompt
from captioner.llava.sampling import Sampling
from data.errors import UserError


@dataclass(frozen=True)
class Ask:
    """What is asked about an image, and how it is to be answered."""

    prompt: Prompt
    sampling: Sampling
    answer: Answer | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Ask":
        """The inverse of `asdict`, JSON between them included."""
        answer = values["answer"]
        if answer is not None:
            answer = Answer(tuple(answer["choices"]), answer["schema"])
        return cls(Prompt(**values["prompt"]), Sampling(**values["sampling"]), answer)


@dataclass(frozen=True)
class Request:
    """One prepared image: RGB, sized as the model wants it.

    Without a `seed` what is drawn is left to chance. `repetition_penalty` is 1 but for a text that
    is asked for again, see `captioner.settings.text_policy`. Without `ask` it is the engine's own
    prompt, which all images have in common.
    """

    key: str
    image: Image.Image
    image_sha256: str
    seed: int | None
    repetition_penalty: float = 1.0
    ask: Ask | None = None


@dataclass(frozen=True)
class Generation:
    """What came of one request. With `error` set there is no text to trust.

    `aborted` is an error that is no fault of the image's: the engine was told to end, or the text
    is `postponed`, for another session to collect.
    """

    key: str
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    caption_tokens: int | None = None
    error: str | None = None
    aborted: bool = False
    postponed: bool = False


class StartError(UserError):
    """An engine could not be started, and may be another time: memory is not free yet, say."""


class Engine(Protocol):
    """Takes requests up to `window`, gives generations in any order.

    An error of one image is a Generation with `error`; an exception means that the engine is dead.
    """

    @property
    def name(self) -> str:
        """What rows say of their engine."""

    @property
    def window(self) -> int:
        """How many requests to keep in flight."""

    @property
    def room(self) -> int:
        """How many more requests it takes now; 0 while it is full, emptied or restarted."""

    @property
    def pending(self) -> int:
        """How many requests are in flight."""

    def submit(self, request: Request) -> None:
        """Take one request; `request.key` is unique among those in flight."""

    def collect(self) -> list[Generation]:
        """Work or wait for a moment and give what finished, perhaps nothing.

        Only called while pending or without room. An engine that has room for more waits but a
        hundredth of a second, since decoded images may be on their way.
        """

    def drain(self) -> None:
        """Nothing more will be asked: what is in flight may finish, and nothing is restarted."""

    def measure(self) -> dict[str, int]:
        """What it does now, as far as it knows; not asked more than once a second.

        `running` and `waiting` requests, `preemptions` and `restarts` so far, and of its GPUs their
        number (`gpus`) and the bytes of `gpu_memory` in use and in all (`gpu_memory_total`).
        """

    def describe(self) -> dict[str, Any]:
        """What the run's record should say: settings, device, the rendered prompt."""

    def close(self) -> None:
        """Free the device. Safe to call twice."""
