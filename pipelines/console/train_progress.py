"""What a training run shows while it goes: the lines of its events, and how far it is."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from pipelines.console.progress import ProgressReporter


class TrainProgress:
    """Receives the trainer's events. Never writes to stdout: results go there."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self._reporter: ProgressReporter | None = None
        self._loss = ""

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "tick":
            self._update("train", "steps", event)
        elif kind == "step":
            self._loss = f"loss {event['loss']:.4f}"
        elif kind == "cache":
            self._update(f"reading {event['what']} images", "images", event)
        else:
            if kind in ("start", "resume"):
                self.close()
            self._tell(event)

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._reporter is not None:
            self._reporter.say(line)
        else:
            print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the bar, or a last line, as it is now."""
        if self._reporter is not None:
            self._reporter.stop()
            self._reporter = None

    def _tell(self, event: dict[str, Any]) -> None:
        line = _describe(event)
        if line is not None:
            self.say(line)

    def _update(self, label: str, unit: str, event: dict[str, Any]) -> None:
        done = event["step"]
        if self._reporter is None or self._reporter.label != label:
            self.close()
            # Opened by the first step and not before it: the bar has a thread, and the loader's
            # processes are forked in the first step, which is also longer than all others.
            self._reporter = ProgressReporter(
                total=event["total"], label=label, unit=unit, done=done, stream=self.stream
            )
            self._reporter.start()
        self._reporter.update(done, note=self._loss if unit == "steps" else "")


def _describe(event: dict[str, Any]) -> str | None:
    """One line for what a user should know; None for the rest."""
    kind = event["event"]
    if kind == "warning":
        return f"warning: {event['text']}"
    if kind == "stopped":
        return (
            f"stopped at step {event['step']} of {event['total']}, the state is saved: "
            "the same command continues"
        )
    if kind == "stopped early":
        return (
            f"stopped early at step {event['step']}: no better rSum for {event['evaluations']} "
            "evaluations (optim.patience)"
        )
    if kind == "finished before":
        return "this run was finished before: nothing to do"
    if kind == "resume":
        return f"continuing at step {event['step']} of {event['total']}"
    if kind == "evaluation":
        return _describe_evaluation(event)
    return None


def _describe_evaluation(event: dict[str, Any]) -> str:
    kinds = [kind for kind in ("dense", "sparse") if kind in event]
    parts = [
        f"{kind} text rSum {event[kind]['rsum']:.1f} "
        f"(I2T R@1 {event[kind]['i2t_r1']:.1f}, T2I R@1 {event[kind]['t2i_r1']:.1f})"
        for kind in kinds
    ]
    mark = "  best so far" if event["best"] else ""
    return f"step {event['step']}, validation: {'; '.join(parts)}{mark}"
