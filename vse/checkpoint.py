"""A training run on disk: safetensors and readable JSON, each file whole or not there.

config.json         everything needed to rebuild the model, the recipe, the data used
model.safetensors   the best evaluation
tokenizer/          the text tower's tokenizer
log.jsonl           one event per line
state/              the newest state saved: weights, optimiser, progress.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.atomic import explain_full_disk, replace_whole, write_json
from data.errors import UserError
from vse.checkpoint_names import CONFIG, LOG, MODEL, PROGRESS
from vse.run_state import check_fingerprint, has_results, read_config


@dataclass(frozen=True)
class Progress:
    """How far a run is; written last, so that it names only files that are whole."""

    step: int
    best_step: int
    best_rsum: float | None
    finished: bool
    seconds: float  # of training, over all attempts
    weights: str  # the file in state/
    scaler: dict[str, Any] | None  # fp16


class RunFolder:
    """Reads and writes one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"

    def read_config(self) -> dict[str, Any] | None:
        """config.json, or None for a folder without a run."""
        return read_config(self.path)

    def check(self, fingerprint: Mapping[str, Any]) -> None:
        """UserError if the folder holds a run with another fingerprint."""
        check_fingerprint(self.path, fingerprint)

    def claim(self, config: Mapping[str, Any]) -> None:
        """Write config.json, unless the same run has written it before and got anywhere."""
        self.check(config["fingerprint"])
        if self.read_config() is None or not has_results(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / CONFIG, dict(config))

    def save_model(self, model: nn.Module) -> None:
        """Put the model's weights in model.safetensors."""
        _save(_plain(model.state_dict()), self.path / MODEL)

    def save_state(
        self,
        stage: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
    ) -> None:
        """Write what resuming needs. progress.json goes last: it makes the new state the state."""
        self.state.mkdir(exist_ok=True)
        tensors = {f"stage.{key}": value for key, value in stage.state_dict().items()}
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        _save(_plain(tensors), self.state / progress.weights)
        write_json(self.path / PROGRESS, asdict(progress))
        for path in self.state.glob("step-*.safetensors"):
            if path.name != progress.weights:
                path.unlink()

    def read_progress(self) -> Progress | None:
        """The newest state's progress, or None when nothing was saved yet."""
        path = self.path / PROGRESS
        if not path.is_file():
            return None
        try:
            return Progress(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error}; delete {self.path}") from error

    def load_state(
        self, progress: Progress, stage: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Put weights and optimiser back, bit for bit."""
        tensors = load_tensors(self.state / progress.weights)
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("stage.")}
        stage.load_state_dict(weights)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def log(self, event: Mapping[str, Any]) -> None:
        """Append one event."""
        line = json.dumps(event, allow_nan=False) + "\n"
        with explain_full_disk(self.path), (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(line)

    def trim_log(self, step: int) -> None:
        """Forget events after `step`: those steps are about to be done again."""
        path = self.path / LOG
        if not path.is_file():
            return
        kept = [event for event in read_log(self.path) if event.get("step", 0) <= step]
        with replace_whole(path) as temporary:
            temporary.write_text("".join(json.dumps(e) + "\n" for e in kept), encoding="utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events of a run; a last line torn by a crash is passed over."""
    events = []
    lines = (path / LOG).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path / LOG} is damaged at line {number}") from error
    return events


def load_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file.

    Raises:
        UserError: missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: was the run ever evaluated?") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with replace_whole(path) as temporary:
        save_file(tensors, temporary)
