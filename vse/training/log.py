"""Averages between log entries, and logging to TensorBoard or Weights & Biases.

The trackers, which are Accelerate's, receive the same events as log.jsonl.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from data.errors import UserError
from data.files.atomic import write_json

PROJECT = "d2s"
WANDB_ID = "wandb.json"
_LOGGED = {"step": "train", "evaluation": "val"}


class Trackers:
    """Trackers, opened at a run's first event, when its step is known."""

    def __init__(
        self,
        accelerator: Accelerator,
        names: Sequence[str],
        *,
        out: Path,
        config: Mapping[str, Any],
    ) -> None:
        """`accelerator` must have been created with `names`; Weights & Biases shows `config`."""
        self.accelerator = accelerator
        self.names = names
        self.out = out
        self.config = dict(config)

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind in ("start", "resume"):
            self._open(event["step"], resumes=kind == "resume")
        elif kind in _LOGGED and self.accelerator.trackers:
            self.accelerator.log(_flatten(_LOGGED[kind], event), step=event["step"])

    def close(self) -> None:
        """Flush and close."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers = []

    def _open(self, step: int, *, resumes: bool) -> None:
        wandb = {
            "id": self._resolve_id(resumes=resumes),
            "name": str(self.out),
            "dir": str(self.out.resolve()),  # its service may have been started in another folder
            "resume": "allow",
            "config": self.config,
        }
        # Steps after the saved state are repeated: TensorBoard must discard them.
        settings = {"wandb": wandb, "tensorboard": {"purge_step": step + 1}}
        try:
            self.accelerator.init_trackers(PROJECT, init_kwargs=settings)
        except Exception as error:
            self.accelerator.trackers = []  # a tracker that did not start cannot be finished
            # Weights & Biases has its own errors for a missing login or network.
            if type(error).__module__.startswith("wandb"):
                raise UserError(
                    f"Weights & Biases refused the run ({type(error).__name__}): run `wandb "
                    "login`, or set WANDB_MODE=offline and upload the run later with `wandb sync`"
                ) from error
            raise

    def _resolve_id(self, *, resumes: bool) -> str:
        """The run's id at Weights & Biases; a run that starts over gets a new one."""
        path = self.out / WANDB_ID
        if resumes and path.is_file():
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        made = secrets.token_hex(4)
        if "wandb" in self.names:
            write_json(path, {"id": made})
        return made


def _flatten(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event, nested names joined by "/"."""
    found: dict[str, float] = {}
    for name, value in values.items():
        path = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            found |= _flatten(path, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            found[path] = float(value)
    return found


class Window:
    """Sums over the steps between two log entries, kept on the device until they are read."""

    def __init__(self) -> None:
        self.steps = 0
        self.samples = 0
        self._sums: dict[str, Tensor] = {}
        self._began = time.perf_counter()

    def add(self, parts: dict[str, Tensor], norm: Tensor, *, count: int) -> None:
        """Add one step's scalars."""
        for name, value in {**parts, "grad_norm": norm}.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.steps += 1
        self.samples += count

    def means(self) -> tuple[dict[str, float], float]:
        """Mean of every part, and of the gradient norm. Waits for the device."""
        stacked = torch.stack(list(self._sums.values())) / max(1, self.steps)
        means = dict(zip(self._sums, stacked.tolist(), strict=True))
        return means, means.pop("grad_norm")

    def rate(self) -> float:
        """Samples per second, all processes together."""
        return self.samples / max(1e-9, time.perf_counter() - self._began)
