"""What a training run shows while it goes: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

PLAIN_SECONDS = 30.0
BAR_SECONDS = 0.2
BAR_WIDTH = 30


class TrainProgress:
    """Receives the trainer's events. Never writes to stdout: results go there."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.live = self.stream.isatty()
        self._last: dict[str, Any] = {}
        self._began: tuple[float, int] | None = None
        self._shown = time.monotonic()
        self._bar = False

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "tick":
            self._tick(event)
        elif kind == "step":
            self._last = event
        elif kind == "cache":
            self._show(f"reading {event['what']} images {event['step']}/{event['total']}")
        elif kind == "warning":
            self.say(f"warning: {event['text']}")
        elif kind == "stopped":
            self.say(
                f"stopped at step {event['step']} of {event['total']}, the state is saved: "
                "the same command continues"
            )
        elif kind == "finished before":
            self.say("this run was finished before: nothing to do")
        elif kind == "resume":
            self.say(f"continuing at step {event['step']} of {event['total']}")
        elif kind == "evaluation":
            self.say(_describe_evaluation(event))

    def say(self, line: str) -> None:
        """A line that stays."""
        self._clear()
        print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        self._clear()

    def _tick(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._began is None:
            # The first step includes start-up, so the pace is taken from the second on.
            self._began = (now, event["step"])
            return
        pace = (event["step"] - self._began[1]) / max(1e-9, now - self._began[0])
        left = (event["total"] - event["step"]) / max(1e-9, pace)
        end = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
        loss = f"  loss {self._last['loss']:.4f}" if self._last else ""
        text = f"step {event['step']}/{event['total']}{loss}  {pace:.2f} steps/s  ends {end}"
        share = event["step"] / event["total"]
        filled = round(BAR_WIDTH * share)
        bar = f"[{'=' * filled}{' ' * (BAR_WIDTH - filled)}] " if self.live else ""
        self._show(bar + text)

    def _show(self, text: str) -> None:
        now = time.monotonic()
        if now - self._shown < (BAR_SECONDS if self.live else PLAIN_SECONDS):
            return
        self._shown = now
        if self.live:
            self.stream.write(f"\r\x1b[2K{text}")
            self.stream.flush()
            self._bar = True
        else:
            print(text, file=self.stream, flush=True)

    def _clear(self) -> None:
        if self._bar:
            self.stream.write("\r\x1b[2K")
            self._bar = False


def _describe_evaluation(event: dict[str, Any]) -> str:
    kinds = [kind for kind in ("dense", "sparse") if kind in event]
    parts = [
        f"{kind} text rSum {event[kind]['rsum']:.1f} "
        f"(I2T R@1 {event[kind]['i2t_r1']:.1f}, T2I R@1 {event[kind]['t2i_r1']:.1f})"
        for kind in kinds
    ]
    mark = "  best so far" if event["best"] else ""
    return f"step {event['step']}, validation: {'; '.join(parts)}{mark}"
