"""What can be asked of a run's folder without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.settings import list_differences
from vse.recipes import Recipe, build
from vse.recipes.files import merge
from vse.runs.checkpoint_names import CONFIG, MODEL, PROGRESS

if TYPE_CHECKING:
    from vse.training.spec import Plan

# How a run goes, not what it makes: may differ between a run and its continuation.
FREE = {
    "data": ("workers",),
    "image": ("checkpointing",),
    "text": ("checkpointing",),
    "loss": ("on_collapse",),
    "optim": ("log_every", "save_minutes"),
}


def read_config(folder: Path) -> dict[str, Any] | None:
    """config.json of a run, or None for a folder without one.

    Raises:
        UserError: it is damaged or of something else.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict) or "fingerprint" not in config:
        raise UserError(f"{path} is not the config.json of a training run")
    return config


def recipe_of(folder: Path) -> dict[str, Any]:
    """The recipe of a stage-1 run as stage 2 takes it over: its towers settled, the rest open.

    Raises:
        UserError: no stage 1 there.
    """
    config = read_stage_1(folder)
    towers = build(Recipe, config["recipe"]).to_dict()
    fixed = {key: towers[key] for key in ("image", "text", "width")}
    return {**merge(config["recipe_raw"], {}), **fixed}


def read_stage_1(folder: Path) -> dict[str, Any]:
    """config.json of a run of stage 1 that has a model.

    Raises:
        UserError: no run there, or one of another stage.
    """
    config = read_config(folder)
    if config is None or not (folder / MODEL).is_file():
        raise UserError(
            f"{folder} holds no trained stage 1: run `d2s train --stage 1`, or name one with --init"
        )
    if config["stage"] != "1":
        raise UserError(
            f"{folder} holds a run of stage {config['stage']}, and stage 2 starts from stage 1: "
            "name one with --init"
        )
    return config


def bind(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's settings without those that may change while it is carried out."""
    return {
        section: {key: value for key, value in part.items() if key not in FREE.get(section, ())}
        if isinstance(part, Mapping)
        else part
        for section, part in settings.items()
    }


def check_folder(plan: Plan) -> None:
    """Make sure that the plan's folder is free or holds the same run."""
    check_fingerprint(plan.out, plan.fingerprint)


def has_results(folder: Path) -> bool:
    """Whether a run got as far as a model or a state; without them there is nothing to spare."""
    return (folder / MODEL).is_file() or (folder / PROGRESS).is_file()


def check_fingerprint(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Make sure that the folder is free, or holds a run with this fingerprint.

    A run that failed before its first evaluation leaves the folder free.

    Raises:
        UserError: another run's folder; the difference is in the message.
    """
    old = read_config(folder)
    if old is None:
        if (folder / MODEL).exists() or (folder / "state").exists():
            raise UserError(f"{folder} holds a model but no {CONFIG}: use another --out")
        return
    if not has_results(folder):
        return
    # Through JSON, as the old one went: tuples become lists.
    before, now = old["fingerprint"], json.loads(json.dumps(fingerprint))
    changes = list_differences({**before, "recipe": _renew(before["recipe"])}, now)
    if changes:
        shown = "; ".join(changes[:6]) + ("; ..." if len(changes) > 6 else "")
        raise UserError(
            f"{folder} holds a run with other settings ({shown}): "
            "use another --out, or delete that folder"
        )


def _renew(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings of an older run as they would be written today.

    One that has become free since is none of its differences, nor is one that did not exist then
    and has the value that leaves all as it was.
    """
    try:
        recipe = build(Recipe, recipe).to_dict()
    except UserError:
        # Settings that are no longer known: they are differences, and will be named.
        return bind(recipe)
    renewed: dict[str, Any] = json.loads(json.dumps(bind(recipe)))
    return renewed
