"""From a run's folder to a checkpoint of the released code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from data.errors import UserError
from vse.model.build import count_weights, rebuild
from vse.model.d2s import D2SModel
from vse.recipes import Recipe, build
from vse.released.checkpoint import ReleasedCheckpoint
from vse.released.keys import released_key
from vse.released.options import options_of
from vse.released.reading import LEFTOVERS, OURS
from vse.released.unread import make_unread
from vse.runs.config import CONFIG, MODEL, read_config
from vse.runs.folder import RunFolder, load_tensors
from vse.sharing.package import strip_places

KNOWN = {"image": ("vit", "swin"), "text": ("bert",)}


@dataclass(frozen=True)
class ReleasedFile:
    """A run as the released code's file will hold it; `notes` say what that code does otherwise."""

    stage: str
    px: int
    count: int  # of our model's weights
    checkpoint: ReleasedCheckpoint
    notes: tuple[str, ...]


def prepare_checkpoint(folder: Path) -> ReleasedFile:
    """Read a run's model under the names of the released code.

    A run that came from such a checkpoint goes back with all that was in it.

    Raises:
        UserError: no model there, or one that the released code has no names for.
    """
    config = read_config(folder)
    if config is None:
        raise UserError(f"{folder} holds no trained model (no {CONFIG})")
    _check_towers(config["model"])
    model = rebuild(config["model"])
    try:
        model.load_state_dict(load_tensors(folder / MODEL))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / MODEL} does not fit its {CONFIG}: {reason}") from error
    weights = {_name(key): value for key, value in model.state_dict().items()}
    about = config["stage"], config["model"]["image"]["px"], count_weights(model)["all"]
    if (folder / LEFTOVERS).is_file():
        unread, options, numbers = _read_leftovers(folder / LEFTOVERS)
        checkpoint = ReleasedCheckpoint({**weights, **unread}, options, numbers)
        return ReleasedFile(*about, checkpoint, ())
    checkpoint, notes = _prepare_ours(folder, config, model, weights)
    return ReleasedFile(*about, checkpoint, notes)


def _prepare_ours(
    folder: Path, config: dict[str, Any], model: D2SModel, weights: dict[str, Tensor]
) -> tuple[ReleasedCheckpoint, tuple[str, ...]]:
    notes = []
    teacher = _read_teacher(config)
    if model.decoder is not None:
        notes = _differences(config["model"]["decoder"])
        if teacher is None:
            notes.append(
                "the teacher's weights are left out, for stage 1 is not there; only training "
                "would read them"
            )
    recipe = build(Recipe, config["recipe"]).to_dict()
    kept = strip_places(config)
    said = {key: kept[key] for key in ("stage", "model", "recipe", "recipe_raw")}
    options = {**options_of(recipe, stage=config["stage"]), OURS: json.dumps(said)}
    done = RunFolder(folder).read_progress()
    numbers: dict[str, float] = {"epoch": 0, "best_rsum": 0.0, "Eiters": 0}
    if done is not None:
        numbers |= {"best_rsum": done.best_rsum or 0.0, "Eiters": done.best_step}
    whole = {**weights, **make_unread(model, teacher=teacher)}
    return ReleasedCheckpoint(whole, options, numbers), tuple(notes)


def _check_towers(description: Mapping[str, Any]) -> None:
    for part, kinds in KNOWN.items():
        found = description[part]["backbone"].get("model_type")
        if found not in kinds:
            raise UserError(
                f"the released code has no {part} tower of this kind ({found}): it knows ViT or "
                "Swin of transformers beside BERT"
            )


def _name(key: str) -> str:
    found = released_key(key)
    if found is None:
        raise UserError(f"the released code has no weight like {key}")
    return found


def _read_leftovers(
    path: Path,
) -> tuple[dict[str, Tensor], dict[str, Any] | None, dict[str, float]]:
    unread = load_tensors(path)
    with safe_open(path, framework="pt") as opened:
        said = opened.metadata() or {}
    try:
        return unread, json.loads(said["options"]), json.loads(said["numbers"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _read_teacher(config: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The text tower of the stage 1 that the run started from, under released names."""
    init = config.get("init")
    if not init or not (Path(init) / MODEL).is_file():
        return None
    weights = load_tensors(Path(init) / MODEL)
    return {_name(key): value for key, value in weights.items() if key.startswith("text.")}


def _differences(decoder: Mapping[str, Any]) -> list[str]:
    """What the released code would compute otherwise, and cannot be told."""
    notes = []
    blocks = decoder.get("kind", "blocks") == "blocks"
    heads, theirs = (decoder["heads"], 4) if blocks else (decoder["cross_heads"], 8)
    if heads != theirs:
        notes.append(f"the released code has {theirs} heads in its decoder, this model {heads}")
    if not blocks and decoder["pooling"] == "gpo":
        notes.append("the released code takes the mean after a cross-attention, this model GPO")
    if not decoder.get("attend_padding", False):
        notes.append("the released code's decoder reads padding, this model's does not")
    if not decoder.get("unit_at_test", False):
        notes.append("the released code cuts r to length 1 at test, this model does not")
    return notes
