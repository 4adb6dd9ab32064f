"""Mean and deviation of results over runs that only differ in their seed."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.settings.differences import list_differences
from vse.evaluation.results import RECALLS, read_results
from vse.runs.config import fixed_settings, read_config
from vse.runs.folder import RunFolder
from vse.sharing.card import Spread

_Found = Mapping[tuple[str, str], Mapping[str, Any]]


def measure_seeds(
    folder: Path, found: _Found, others: Sequence[Path]
) -> dict[tuple[str, str], Spread]:
    """Results over the run in `folder` and `others`, by (data set, split); empty without others.

    Args:
        found: results of the run of `folder`.

    Raises:
        UserError: a run that is unfinished, was evaluated on other data, has the same seed, or
            differs in more than its seed.
    """
    if not others:
        return {}
    if not found:
        command = f"d2s evaluate --model {_quote(folder)}"
        raise UserError(f"{folder} was not measured: run `{command}` first")
    own = _read(folder)
    seeds = {_seed(own): folder}
    results: list[_Found] = [found]
    for other in others:
        config = _read(other)
        _check_same(folder, own, other, config)
        seed = _seed(config)
        if seed in seeds:
            raise UserError(f"{seeds[seed]} and {other} have the same seed ({seed})")
        seeds[seed] = other
        results.append(_read_results(other, found))
    return {key: _spread(tuple(seeds), [one[key] for one in results]) for key in found}


def _spread(seeds: tuple[int, ...], summaries: Sequence[Mapping[str, Any]]) -> Spread:
    values = {key: [float(one[key]) for one in summaries] for key in RECALLS}
    return Spread(
        seeds,
        {key: statistics.fmean(each) for key, each in values.items()},
        {key: statistics.stdev(each) for key, each in values.items()},
    )


def _read(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    if config is None:
        raise UserError(
            f"{folder} contains no training run: specify the folder of one with --seed-run"
        )
    done = RunFolder(folder).read_progress()
    if done is None or not done.finished:
        raise UserError(f"the run in {folder} is not finished: run its `d2s train` command again")
    return config


def _seed(config: Mapping[str, Any]) -> int:
    return int(config["recipe"]["optim"]["seed"])


def _check_same(
    folder: Path, own: Mapping[str, Any], other: Path, config: Mapping[str, Any]
) -> None:
    """The initial weights of stage 2 may differ: stage 1 has a seed, too."""
    pair = []
    for one in (own, config):
        settings = fixed_settings(one["recipe"])
        settings["optim"] = {k: v for k, v in settings["optim"].items() if k != "seed"}
        kept = {key: one["fingerprint"].get(key) for key in ("stage", "data", "dense")}
        pair.append({**kept, "recipe": settings})
    changes = list_differences(pair[0], pair[1])
    if changes:
        shown = "; ".join(changes[:4]) + ("; ..." if len(changes) > 4 else "")
        raise UserError(f"{other} differs from {folder} by more than its seed ({shown})")


def _quote(folder: Path) -> str:
    return shlex.quote(str(folder))


def _read_results(folder: Path, wanted: _Found) -> _Found:
    results = read_results(folder)
    for key, summary in wanted.items():
        mine = results.found.get(key)
        same = ("images", "captions", "px")
        if mine is None or any(mine[name] != summary[name] for name in same):
            dataset, split = key
            why = f" ({results.notes[0]})" if results.notes else ""
            raise UserError(
                f"{folder} was not measured on the same images and captions of {dataset}, {split}"
                f"{why}: run `d2s evaluate --model {_quote(folder)} --split {split}` first"
            )
    return results.found
