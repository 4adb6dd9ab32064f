"""The interface of an engine, which is all that the runner knows about it."""

from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from captioner.llava.answer import Answer
from captioner.llava.chat_template import Prompt
from captioner.llava.sampling import Sampling
from data.errors import UserError


@dataclass(frozen=True)
class Ask:
    """The prompt for an image, and the form of the answer."""

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
    """One prepared image: RGB, in the model's size.

    Without a `seed`, sampling is random. `repetition_penalty` is 1 except for second attempts, see
    `captioner.settings.text_policy`; `attempt` tells these apart where nothing else does. Without
    `ask`, the engine's own prompt is used, which is the same for all images.
    """

    key: str
    image: Image.Image
    image_sha256: str
    seed: int | None
    repetition_penalty: float = 1.0
    ask: Ask | None = None
    attempt: int = 1


@dataclass(frozen=True)
class Generation:
    """The result of one request. If `error` is set, the text is not valid.

    `aborted` is an error that the image did not cause: the engine was closed, or the text is
    `postponed` to another session.
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
    """An engine could not be started, but a retry may succeed (if memory was not free yet, say)."""


class Engine(Protocol):
    """Accepts up to `window` requests and returns generations in any order.

    An error of one image is a Generation with `error`; an exception means that the engine is dead.
    """

    @property
    def name(self) -> str:
        """The name of the engine that is stored in rows."""

    @property
    def window(self) -> int:
        """Number of requests to keep in flight."""

    @property
    def room(self) -> int:
        """Number of requests it can accept now; 0 while it is full, draining or restarting."""

    @property
    def pending(self) -> int:
        """Number of requests in flight."""

    def submit(self, request: Request) -> None:
        """Accept one request; `request.key` is unique among those in flight."""

    def collect(self) -> list[Generation]:
        """Work or wait for a moment, and return what finished, which may be nothing.

        Only called while pending or without room. An engine with room for more waits at most 10 ms,
        since decoded images may be on their way.
        """

    def drain(self) -> None:
        """No more requests will come: those in flight can finish, and nothing is restarted."""

    def measure(self) -> dict[str, int]:
        """Its current load, as far as known; called at most once per second.

        `running` and `waiting` requests, `preemptions` and `restarts` so far, and for its GPUs
        their number (`gpus`) and the bytes of memory in use (`gpu_memory`) and in total
        (`gpu_memory_total`).
        """

    def describe(self) -> dict[str, Any]:
        """What to record with the run: settings, device, the rendered prompt."""

    def close(self) -> None:
        """Free the device. Safe to call twice."""
