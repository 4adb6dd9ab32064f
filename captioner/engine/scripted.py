"""An engine without a model, for testing the pipeline. All its rows are marked `scripted`."""

import hashlib
import json
import os
import random
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioner.engine.protocol import Generation, Request, StartError

_THINGS = ("kettle", "ladder", "lantern", "bicycle", "window", "river", "parrot", "guitar")
_START_POLL_SECONDS = 0.02
_STEP = 4
_COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown", "grey")


class ScriptedEngine:
    """Generates text that only depends on the request, deliberately out of order."""

    name = "scripted"

    def __init__(
        self,
        *,
        window: int = 32,
        seconds_per_step: float = 0.0,
        faults: Mapping[str, str] | None = None,
        once: str | None = None,
        start_after: str | None = None,
        start_unless: str | None = None,
    ) -> None:
        """`seconds_per_step` slows it down, so that a test can stop it midway.

        `faults` maps the key of an image to what happens when it is reached: `hang`, `die` (the
        process ends), `grow` (by 256 MiB), `fail`, `silence` (no text) or `other` (not in the
        requested form). With `once`, a file name, a fault only happens while this file does not
        exist, and creates it.

        `start_after` and `start_unless` are also file names: the engine does not start before the
        first exists, and refuses to start, with the content of the file as the message, while the
        second exists.
        """
        while start_after is not None and not Path(start_after).exists():
            time.sleep(_START_POLL_SECONDS)
        if start_unless is not None and Path(start_unless).exists():
            raise StartError(Path(start_unless).read_text())
        self._window = window
        self._seconds = seconds_per_step
        self._faults = faults or {}
        self._once = None if once is None else Path(once)
        self._queue: deque[Request] = deque()
        self._ballast: list[bytes] = []

    @property
    def window(self) -> int:
        return self._window

    @property
    def room(self) -> int:
        return self._window - len(self._queue)

    @property
    def pending(self) -> int:
        return len(self._queue)

    def submit(self, request: Request) -> None:
        self._queue.append(request)

    def collect(self) -> list[Generation]:
        if self._seconds:
            time.sleep(self._seconds)
        # The newest of each step first: the runner must not rely on the order.
        step = [self._queue.popleft() for _ in range(min(_STEP, len(self._queue)))]
        return [self._reach(request) for request in reversed(step)]

    def _reach(self, request: Request) -> Generation:
        fault = self._faults.get(request.key)
        if fault is not None and self._once is not None:
            if self._once.exists():
                return _generate(request)
            self._once.touch()
        if fault == "die":
            os._exit(17)
        while fault == "hang":
            time.sleep(1)
        if fault == "grow":
            self._ballast.append(b"\1" * (256 << 20))
        if fault == "fail":
            return Generation(request.key, error="scripted to fail")
        if fault == "other":
            return Generation(request.key, text="Something else.", finish_reason="stop")
        if fault == "silence":
            return Generation(request.key, text="<think>Hm", finish_reason="length")
        return _generate(request)

    def drain(self) -> None:
        # Requests in flight finish in any case.
        pass

    def measure(self) -> dict[str, int]:
        running = min(_STEP, len(self._queue))
        return {"running": running, "waiting": len(self._queue) - running}

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name, "note": "scripted text, written without a model"}

    def close(self) -> None:
        self._queue.clear()


def _generate(request: Request) -> Generation:
    asked = "" if request.ask is None else f"\0{request.ask.prompt.text}"
    answer = None if request.ask is None else request.ask.answer
    digest = hashlib.sha256(f"{request.key}\0{request.image_sha256}{asked}".encode()).hexdigest()
    draw = random.Random(f"{digest}{request.seed}")
    said = [
        f"A {draw.choice(_COLOURS)} {draw.choice(_THINGS)} stands beside item {number}."
        for number in range(1, 2 + draw.randrange(4))
    ]
    text = " ".join([f"Scripted text {digest[:12]} for an image.", *said])
    if answer is not None and answer.schema is None:
        text = draw.choice(answer.choices)
    elif answer is not None and answer.schema is not None:
        text = json.dumps(_answer(json.loads(answer.schema), draw))
    width, height = request.image.size
    return Generation(
        key=request.key,
        text=text,
        finish_reason="stop",
        prompt_tokens=8 + width * height // 196,
        caption_tokens=len(text.split()),
    )


def _answer(schema: dict[str, Any], draw: random.Random) -> Any:
    """A value that conforms to a JSON schema without bounds."""
    if schema["type"] == "object":
        return {name: _answer(below, draw) for name, below in schema["properties"].items()}
    if schema["type"] == "array":
        return [_answer(schema["items"], draw) for _ in range(draw.randrange(3))]
    simple = {"integer": draw.randrange(9), "number": draw.random(), "boolean": draw.random() < 0.5}
    return simple.get(schema["type"], draw.choice(schema.get("enum", _THINGS)))
