"""The display of a training run: its events and progress."""

from __future__ import annotations

from typing import Any, TextIO

from pipelines.console.progress import ChangingProgress


class TrainProgress(ChangingProgress):
    """Receives the trainer's events. Never writes to stdout: results go there."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._loss = ""

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "tick":
            self.update("train", "steps", event["step"], event["total"], note=self._loss)
        elif kind == "step":
            self._loss = f"loss {event['loss']:.4f}"
        elif kind == "cache":
            label = f"reading {event['what']} images"
            self.update(label, "images", event["step"], event["total"])
        else:
            if kind in ("start", "resume"):
                self.close()
            if (line := _describe(event)) is not None:
                self.say(line)


def _describe(event: dict[str, Any]) -> str | None:
    """One line for events that matter to users; None for the rest."""
    kind = event["event"]
    if kind == "warning":
        return f"warning: {event['text']}"
    if kind == "stopped":
        return (
            f"stopped at step {event['step']} of {event['total']}, the state is saved: run the "
            "same command again to continue"
        )
    if kind == "stopped early":
        return (
            f"stopped early at step {event['step']}: no better rSum for {event['evaluations']} "
            "evaluations (optim.patience)"
        )
    if kind == "finished before":
        return "this run is already finished: nothing to do"
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
