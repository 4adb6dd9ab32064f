"""Collecting the results of an ablation's runs from their folders."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from pipelines.experiments.ablation_table import Row, Table
from pipelines.experiments.trainings import (
    AblationSetup,
    Training,
    find_training,
)
from vse.evaluation.results import RECALLS, name_results
from vse.runs.config import read_config
from vse.runs.folder import RunFolder, read_log

_LOST = "images_left_out"
RULE = (
    "kept if the mean gain in validation rSum is larger than the pooled deviation, "
    "sqrt((sd_idea^2 + sd_base^2) / 2) over the seeds; fixed before the first run"
)


def collect(
    out: Path, table: Table, setting: AblationSetup, seeds: Sequence[int]
) -> dict[str, Any]:
    """The table's figures as plain JSON; seeds that are not done are missing.

    Raises:
        UserError: the seeds of a row were trained on different data.
    """
    trainings = {row.name: find_training(row, setting) for row in table.rows}
    runs = {
        row.name: {seed: read_training(out, trainings[row.name], setting, seed) for seed in seeds}
        for row in table.rows
    }
    done = {
        name: {seed: run for seed, run in found.items() if run is not None}
        for name, found in runs.items()
    }
    for name in done:
        folders = [out / trainings[name].folder(seed) for seed in done[name]]
        refuse_other_data(folders)
    reference = done[table.reference.name]
    return {
        "table": table.name,
        "title": table.title,
        "paper": table.paper,
        "notes": list(table.notes),
        "decides": table.decides,
        "reference": table.reference.name,
        "seeds": list(seeds),
        "split": setting.split,
        "rows": [
            summarise(row, trainings[row.name], done[row.name], reference, table)
            for row in table.rows
        ],
    }


def refuse_other_data(folders: Sequence[Path]) -> None:
    """UserError if runs that only differ in their seed were trained on different images or texts.

    Captions or dense text can change between sessions, at the same paths.
    """
    known = [read_config(folder) or {} for folder in folders]
    hashes = [[one.get("fingerprint", {}).get(key) for key in ("data", "dense")] for one in known]
    for folder, found in zip(folders, hashes, strict=True):
        if found != hashes[0]:
            raise UserError(
                f"{folders[0]} and {folder} were trained on different captions, dense texts or "
                "images: delete the folders of the older runs, or use another --out"
            )


def read_training(
    out: Path, training: Training, setting: AblationSetup, seed: int
) -> dict[str, Any] | None:
    """Test recalls, validation rSum, seconds and steps of one run; None if it is not measured."""
    folder = out / training.folder(seed)
    results = name_results(setting.split, setting.limit)
    if not (folder / results).is_file():
        return None
    return {**read_run(folder, results=results), "folder": training.folder(seed)}


def read_run(folder: Path, *, results: str = "eval-test.json") -> dict[str, Any]:
    """Steps, seconds, validation rSum and, if there are `results`, recalls of one run."""
    path = folder / results
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    done = RunFolder(folder).read_progress()
    chosen = [event for event in read_log(folder) if event.get("best")]
    return {
        **({} if metrics is None else {key: metrics[key] for key in RECALLS}),
        **({} if metrics is None else {_LOST: metrics.get(_LOST, 0)}),
        # On sparse captions, even if stage 1 was selected by dense text.
        "val_rsum": chosen[-1]["sparse"]["rsum"] if chosen else None,
        "steps": None if done is None else done.step,
        "best_step": None if done is None else done.best_step,
        "seconds": None if done is None else done.seconds,
    }


def summarise(
    row: Row,
    training: Training,
    runs: dict[int, dict[str, Any]],
    reference: dict[int, dict[str, Any]],
    table: Table,
) -> dict[str, Any]:
    """One row: steps, mean and deviation, gain relative to the reference row, and runs."""
    first = training.init
    # If the student does not start from stage 1, only the teacher uses it.
    warm = first is not None and ("teacher.warm_start", "false") not in training.changes
    found: dict[str, Any] = {
        "name": row.name,
        "steps": [first.steps, training.steps] if warm and first else [training.steps],
        "paper": row.paper,
        "changes": dict(training.changes),
        "changes_of_stage_1": dict(first.changes) if first else {},
        "rsum": None,
        "gain": None,
        "runs": [{"seed": seed, **run} for seed, run in runs.items()],
    }
    if not runs:
        return found
    own = {seed: run["rsum"] for seed, run in runs.items()}
    found["rsum"] = spread(list(own.values()))
    if not row.reference:
        found["gain"] = compare_seeds(own, {seed: run["rsum"] for seed, run in reference.items()})
    # Some seeds of a row may have failed.
    pairs = [(run, reference[seed]) for seed, run in runs.items() if seed in reference]
    if table.decides and not row.reference and pairs:
        ours, theirs = ([run["val_rsum"] for run in part] for part in zip(*pairs, strict=True))
        same = all(run["folder"] == other["folder"] for run, other in pairs)
        if not same and None not in ours + theirs:
            found["decision"] = decide(ours, theirs)
        found["same_as_reference"] = same
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation (0 for one value)."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "sd": deviation}


def compare_seeds(
    own: Mapping[int, float], reference: Mapping[int, float]
) -> dict[str, float] | None:
    """Mean and deviation of the differences, seed by seed; None without a seed in common."""
    gaps = [value - reference[seed] for seed, value in own.items() if seed in reference]
    return spread(gaps) if gaps else None


def decide(own: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Whether an idea is kept, by `RULE`; None with fewer than two seeds."""
    gain = statistics.fmean(own) - statistics.fmean(reference)
    if min(len(own), len(reference)) < 2:
        return {"gain": gain, "pooled": None, "kept": None}
    pooled = math.sqrt((statistics.variance(own) + statistics.variance(reference)) / 2)
    return {"gain": gain, "pooled": pooled, "kept": gain > pooled}
