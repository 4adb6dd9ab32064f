"""An engine without a model, for trying the machinery. Every row it writes says `scripted`."""

import hashlib
import random
import time
from collections import deque
from typing import Any

from captioner.engines.protocol import Generation, Request

_THINGS = ("kettle", "ladder", "lantern", "bicycle", "window", "river", "parrot", "guitar")
_COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown", "grey")


class ScriptedEngine:
    """Text that depends on the request alone, finished out of order on purpose."""

    name = "scripted"

    def __init__(self, *, window: int = 32, seconds_per_step: float = 0.0) -> None:
        """`seconds_per_step` slows it down, so that a test can stop it midway."""
        self._window = window
        self._seconds = seconds_per_step
        self._queue: deque[Request] = deque()

    @property
    def window(self) -> int:
        return self._window

    @property
    def pending(self) -> int:
        return len(self._queue)

    def submit(self, request: Request) -> None:
        self._queue.append(request)

    def collect(self) -> list[Generation]:
        if self._seconds:
            time.sleep(self._seconds)
        # The newest of each step first: the runner must not lean on the order.
        step = [self._queue.popleft() for _ in range(min(4, len(self._queue)))]
        return [_generate(request) for request in reversed(step)]

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name, "note": "scripted text, written without a model"}

    def close(self) -> None:
        self._queue.clear()


def _generate(request: Request) -> Generation:
    digest = hashlib.sha256(f"{request.key}\0{request.image_sha256}".encode()).hexdigest()
    draw = random.Random(f"{digest}{request.seed}")
    said = [
        f"A {draw.choice(_COLOURS)} {draw.choice(_THINGS)} stands beside item {number}."
        for number in range(1, 2 + draw.randrange(4))
    ]
    text = " ".join([f"Scripted text {digest[:12]} for an image.", *said])
    width, height = request.image.size
    return Generation(
        key=request.key,
        text=text,
        finish_reason="stop",
        prompt_tokens=8 + width * height // 196,
        caption_tokens=len(text.split()),
    )
