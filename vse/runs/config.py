"""The folder of a run, without torch: file names and config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError, one_line
from data.escaping import shown
from data.files.atomic import write_json
from data.settings import differences
from data.settings.differences import list_differences
from data.settings.yaml_files import merge
from vse.recipes import Recipe, build

CONFIG, MODEL, LOG, TOKENIZER = "config.json", "model.safetensors", "log.jsonl", "tokenizer"
LEFT_OUT = "left_out.jsonl"
PROGRESS = "state/progress.json"
# Of a shared model.
PREPROCESSING = "preprocessing.json"
FORMAT = 1  # of config.json
# The default folder of each stage.
RUNS = {
    "1": Path("runs/stage1"),
    "2": Path("runs/stage2"),
    "joint": Path("runs/joint"),
    "sparse": Path("runs/sparse"),
}
# Settings that do not affect the result: they can change when a run is resumed.
FREE = {
    "data": ("workers",),
    "image": ("checkpointing",),
    "text": ("checkpointing",),
    "loss": ("on_collapse",),
    "optim": ("log_every", "save_minutes"),
}
# Obsolete settings in the files of older runs.
GONE = {"loss": ("relation_temperature",)}


def read_config(folder: Path) -> dict[str, Any] | None:
    """config.json of a run, or None for a folder without one.

    Raises:
        UserError: it is damaged or not from d2s.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({one_line(error)}): restore a copy, or use another folder"
        ) from error
    if not isinstance(config, dict) or "fingerprint" not in config:
        raise UserError(f"{path} is not the config.json of a training run")
    return config


def recipe_of(folder: Path) -> dict[str, Any]:
    """The recipe of a run for stage 2: towers with their settings, everything else unresolved.

    Raises:
        UserError: there is no stage 1.
    """
    config = read_stage_1(folder)
    towers = build(Recipe, _without(config["recipe"], GONE)).to_dict()
    parts = ("image", "text", "width", *(("decoder",) if config["stage"] == "joint" else ()))
    fixed = {key: towers[key] for key in parts}
    return {**merge(config["recipe_raw"], {}), **fixed}


def read_stage_1(folder: Path) -> dict[str, Any]:
    """config.json of a run of stage 1, or of the joint stage, that has a model.

    Raises:
        UserError: no run, or one of another stage.
    """
    config = read_config(folder)
    if config is None or not (folder / MODEL).is_file():
        raise UserError(
            f"{folder} has no trained stage 1: run `d2s train --stage 1`, or specify one with "
            "--init"
        )
    if config["stage"] not in ("1", "joint"):
        raise UserError(
            f"{folder} contains a run of stage {config['stage']}, but stage 2 starts from stage 1 "
            "or the joint stage: specify one with --init"
        )
    return config


def fixed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's settings without those that can change during a run."""
    return _without(settings, FREE)


def _without(settings: Mapping[str, Any], left: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A recipe's settings without those named in `left` for each section."""
    return {
        section: {key: value for key, value in part.items() if key not in left.get(section, ())}
        if isinstance(part, Mapping)
        else part
        for section, part in settings.items()
    }


def note_places(folder: Path, places: Mapping[str, str | None]) -> None:
    """Record the current location of a run's data, if it has moved."""
    config = read_config(folder) if has_results(folder) else None
    if config is not None and any(config["data"].get(name) != places[name] for name in places):
        write_json(folder / CONFIG, {**config, "data": {**config["data"], **places}})


def find_place(data: Mapping[str, Any], what: str) -> Path | None:
    """Where the images, captions, dense or other texts of a run's `data` are, None if nowhere."""
    for place in (data.get(what), data.get(f"{what}_relative")):
        if place and Path(place).exists():
            return Path(shown(Path(place)))
    return None


def find_places(folder: Path, *, needs_captions: bool) -> dict[str, Path | None] | None:
    """Where the images, captions and dense text of a run of stage 1 are, each None if nowhere.

    None altogether if it does not say where they were, as a shared model.

    Raises:
        UserError: there is no stage 1, or `needs_captions` and its caption file is gone: others
            could have other splits.
    """
    data = read_stage_1(folder)["data"]
    if not data.get("images"):
        return None
    found = {what: find_place(data, what) for what in ("images", "captions", "dense")}
    if needs_captions and data.get("captions") and found["captions"] is None:
        raise UserError(
            f"the captions of {folder} are no longer at {data['captions']}: specify them with "
            "--captions"
        )
    return found


def has_results(folder: Path) -> bool:
    """Whether a run has a model or a state; otherwise there is nothing to protect."""
    return (folder / MODEL).is_file() or (folder / PROGRESS).is_file()


def read_left_out(folder: Path) -> list[dict[str, Any]]:
    """The images that a run with results left out when it started."""
    path = folder / LEFT_OUT
    if not (has_results(folder) and path.is_file()):
        return []
    try:
        return [dict(json.loads(line)) for line in path.read_bytes().splitlines()]
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({one_line(error)}): restore a copy, or use another folder"
        ) from error


def check_fingerprint(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Check that the folder is free, or contains a run with this fingerprint.

    A folder whose run failed before its first evaluation counts as free.

    Raises:
        UserError: another run's folder; the difference is in the message.
    """
    old = read_config(folder)
    if old is None:
        if (folder / MODEL).exists() or (folder / "state").exists():
            raise UserError(f"{folder} contains a model but no {CONFIG}: use another --out")
        return
    if not has_results(folder):
        return
    # Through JSON, like the old one: tuples become lists.
    before, now = old["fingerprint"], json.loads(json.dumps(fingerprint))
    changes = list_differences({**before, "recipe": _as_today(before["recipe"])}, now)
    if changes:
        shown = "; ".join(changes[:6]) + ("; ..." if len(changes) > 6 else "")
        raise UserError(
            f"{folder} contains a run with other settings ({shown}): "
            "use another --out, or delete that folder"
        )


def _as_today(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings of an older run in today's form.

    Settings that can now change, and new settings with the value that preserves the old behavior,
    do not count as differences.
    """
    try:
        recipe = build(Recipe, _without(recipe, GONE)).to_dict()
    except UserError:
        # Unknown settings count as differences and will be named.
        return fixed_settings(recipe)
    renewed: dict[str, Any] = json.loads(json.dumps(fixed_settings(recipe)))
    return renewed


def selection_split(config: Mapping[str, Any]) -> str:
    """The split whose rSum selected the weights of a run."""
    split: str = config["recipe"]["data"].get("select_split", "val")
    return split


def list_other_versions(folder: Path) -> list[str]:
    """`torch: 2.8.0 -> 2.9.0` for each package whose version has changed since a run started."""
    config = read_config(folder) or {}
    before, now = config.get("versions") or {}, list_versions()
    # Older runs recorded fewer packages.
    return list_differences(before, {name: now[name] for name in before if name in now})


def list_versions() -> dict[str, str]:
    """Versions of the installed packages that affect training."""
    packages = ("d2s-vse", "torch", "transformers", "accelerate", "tokenizers", "numpy")
    return differences.list_versions(packages)
