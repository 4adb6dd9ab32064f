"""events.jsonl: the history of a run, to monitor it or find out later why it was slow."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from captioner.engine.protocol import Engine
from captioner.engine.watchdog import measure_memory

EVENTS_NAME = "events.jsonl"
_LINE_SECONDS = 30.0
# vLLM takes 92 % of a GPU's memory when it starts; the rest is for unforeseen needs.
_LEAST_FREE = 0.02


class RunEvents:
    """A line every half minute during generation, one per message, and a final one with totals.

    Every session writes the final line, however it ended. Each session, and each owner of a shared
    folder, appends to the file.
    """

    def __init__(
        self, directory: Path, *, owner: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = directory / EVENTS_NAME
        self._owner = owner
        self._clock = clock
        self._began = clock()
        # From the first text on: the startup of an engine does not count.
        self._marked: float | None = None
        self._texts = self._tokens = 0
        self.tokens_per_second = 0.0
        self.load: dict[str, int] = {}
        self._warned = False
        self._before = (0, 0)

    def discard(self) -> None:
        """Remove the file of a run that was never started."""
        self._path.unlink(missing_ok=True)

    def tell(self, line: str) -> None:
        """Record a message to the user, such as the restart of an engine."""
        self._write(event=line)

    def count(self, tokens: int, *, engine: Engine | None, decoded: int, left: int) -> str | None:
        """Count a finished image and its tokens; `decoded` wait for the engine, `left` remain.

        Returns a message for the user, if any: once, that GPU memory is nearly full.
        """
        self._texts += 1
        self._tokens += tokens
        now = self._clock()
        if self._marked is None:
            self._marked, self._before = now, (self._texts, self._tokens)
        elif now - self._marked >= _LINE_SECONDS:
            self._measure(now - self._marked, engine, decoded, left)
            self._marked, self._before = now, (self._texts, self._tokens)
            return self._warn()
        return None

    def note_load(self, engine: Engine) -> None:
        """Record the engine's load before it is closed; a dead engine has none."""
        with contextlib.suppress(Exception):
            self.load = engine.measure()

    def close(self, ended: str, *, left: int) -> None:
        """Record how the session ended (finished, interrupted, failed), with its totals."""
        self._write(
            ended=ended,
            images=self._texts,
            left=left,
            tokens=self._tokens,
            seconds=round(self._clock() - self._began, 3),
            memory=measure_memory(os.getpid()),
            **self.load,
        )

    def _warn(self) -> str | None:
        total = self.load.get("gpu_memory_total", 0)
        free = total - self.load.get("gpu_memory", 0)
        if self._warned or not total or free >= _LEAST_FREE * total:
            return None
        self._warned = True
        return (
            f"GPU memory is nearly full, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free: if an "
            "engine restarts because memory runs out, use a smaller --gpu-memory"
        )

    def _measure(self, seconds: float, engine: Engine | None, decoded: int, left: int) -> None:
        texts, tokens = self._texts - self._before[0], self._tokens - self._before[1]
        self.tokens_per_second = tokens / seconds
        self.load = engine.measure() if engine else {}
        self._write(
            images=self._texts,
            left=left,
            images_per_second=round(texts / seconds, 3),
            tokens_per_second=round(self.tokens_per_second, 1),
            decoded=decoded,
            in_engine=engine.pending if engine else 0,
            window=engine.window if engine else 0,
            memory=measure_memory(os.getpid()),
            **self.load,
        )

    def _write(self, **facts: Any) -> None:
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": moment, "owner": self._owner, **facts})
        # A run does not fail because of this file: a full disk is reported when rows are written.
        with contextlib.suppress(OSError), self._path.open("a", encoding="ascii") as file:
            file.write(line + "\n")
