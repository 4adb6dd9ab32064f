"""A training run on disk: safetensors and readable JSON, each file written atomically.

config.json         everything needed to rebuild the model, the recipe, the data used
model.safetensors   the best evaluation
tokenizer/          the text tower's tokenizer
log.jsonl           one event per line
left_out.jsonl      one line per image that could not be used, if any
state/              the latest saved state: weights, optimizer, progress.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.errors import UserError, one_line
from data.files.atomic import explain_full_disk, replace_whole, write_json
from data.settings.building import build
from vse.runs.config import (
    CONFIG,
    LEFT_OUT,
    LOG,
    MODEL,
    PROGRESS,
    check_fingerprint,
    has_results,
    read_config,
)


@dataclass(frozen=True)
class Progress:
    """The progress of a run; written last, so that it only names complete files."""

    step: int
    best_step: int
    best_rsum: float | None
    finished: bool
    seconds: float  # training time over all attempts
    weights: str  # the file in state/
    scaler: dict[str, Any] | None  # fp16
    stale: int = 0  # evaluations since the best one
    collapsed: int = 0  # steps for which the loss has been at its collapsed value


class RunFolder:
    """Reads and writes one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"

    def claim(
        self, config: Mapping[str, Any], *, left_out: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Write config.json, unless the same run has written it before and has results.

        Also write which images cannot be used, and why; no file if all can be used.
        """
        check_fingerprint(self.path, config["fingerprint"])
        if read_config(self.path) is not None and has_results(self.path):
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / CONFIG, dict(config))
        path = self.path / LEFT_OUT
        path.unlink(missing_ok=True)
        if left_out:
            with replace_whole(path) as temporary:
                lines = (json.dumps(image) + "\n" for image in left_out)
                temporary.write_text("".join(lines), encoding="utf-8")

    def save_model(self, model: nn.Module) -> None:
        """Write the model's weights to model.safetensors."""
        _save(model.state_dict(), self.path / MODEL)

    def save_state(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Write what resuming needs; progress.json comes last and makes the state current."""
        self.state.mkdir(exist_ok=True)
        _save(tensors, self.state / progress.weights)
        write_json(self.path / PROGRESS, asdict(progress))
        for path in self.state.glob("step-*.safetensors"):
            if path.name != progress.weights:
                path.unlink()

    def read_progress(self) -> Progress | None:
        """The progress of the latest state, or None if nothing has been saved.

        A finished run stays finished if its `state/` is deleted, since only resuming needs it.
        """
        path = self.path / PROGRESS
        if not path.is_file():
            return self._recall_finish()
        try:
            return build(Progress, json.loads(path.read_bytes()), what="the progress")
        except (ValueError, UserError) as error:
            raise UserError(
                f"{path} is damaged ({one_line(error)}): {self._begin_again}"
            ) from error

    def load_state(self, progress: Progress) -> dict[str, Tensor]:
        """The tensors of a saved state.

        Raises:
            UserError: missing or damaged.
        """
        return load_tensors(self.state / progress.weights, way=self._begin_again)

    @property
    def _begin_again(self) -> str:
        return f"delete {self.state}; the run then starts again, and a finished one stays finished"

    def _recall_finish(self) -> Progress | None:
        """The end of a run according to its log, if its model exists."""
        if not ((self.path / MODEL).is_file() and (self.path / LOG).is_file()):
            return None
        events = read_log(self.path)
        if not events or events[-1]["event"] != "finish":
            return None
        end = events[-1]
        # Without a validation split nothing was evaluated, and the latest weights were kept.
        chosen = {"step": end["step"], "rsum": None}
        for event in events:
            if event["event"] == "evaluation" and event["best"]:
                chosen = event
        return Progress(end["step"], chosen["step"], chosen["rsum"], True, end["seconds"], "", None)

    def log(self, event: Mapping[str, Any]) -> None:
        """Append one event."""
        line = json.dumps(event, allow_nan=False) + "\n"
        with explain_full_disk(self.path), (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(line)

    def trim_log(self, step: int) -> None:
        """Remove events after `step`, since those steps will be repeated."""
        path = self.path / LOG
        if not path.is_file():
            return
        kept = [event for event in read_log(self.path) if event.get("step", 0) <= step]
        with replace_whole(path) as temporary:
            temporary.write_text("".join(json.dumps(e) + "\n" for e in kept), encoding="utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events of a run; a last line truncated by a crash is skipped."""
    events = []
    lines = (path / LOG).read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            events.append({**event, "event": str(event["event"])})
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines):
                raise UserError(
                    f"{path / LOG} is damaged at line {number}: delete that line"
                ) from error
    return events


def read_progress_summary(model: Path) -> dict[str, Any]:
    """Whether the run is finished, its latest saved step, and the step of its best model.

    All None if the state was deleted.
    """
    done = RunFolder(model).read_progress()
    return {
        "finished": None if done is None else done.finished,
        "step": None if done is None else done.step,
        "best_step": None if done is None else done.best_step,
    }


def last_step(log: Sequence[Mapping[str, Any]]) -> int:
    """The number of steps of a run."""
    return max(int(event["step"]) for event in log if event["event"] == "step")


def load_tensors(
    path: Path, *, way: str = "copy it here again, or train again"
) -> dict[str, Tensor]:
    """Read a safetensors file; `way` is the advice if it is unusable.

    Raises:
        UserError: missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing (was the run ever evaluated?): {way}") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): {way}") from error


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with replace_whole(path) as temporary:
        save_file(plain, temporary)
