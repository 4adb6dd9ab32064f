"""Converting the released code's command line to our settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from data.errors import UserError
from data.settings.yaml_files import merge, nest

# Options with the same meaning; what can be inferred from weights takes precedence.
SAME = {
    "img_res": "image.px",
    "embed_size": "width",
    "num_tokens": "decoder.tokens",
    "decoder_depth": "decoder.depth",
    "no_res_embed": "decoder.residual",  # its name is the opposite of its meaning
    "margin": "loss.margin",
    "vse_mean_warmup_epochs": "loss.sum_epochs",
    "num_epochs": "optim.epochs",
    "learning_rate": "optim.lr",
    "grad_clip": "optim.clip",
    "lr_schedules": "optim.milestones",
    "decay_rate": "optim.gamma",
    "workers": "data.workers",
}
DISTANCES = {"cos": "cosine", "l2": "l2"}


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a released command line, nested like a recipe.

    Raises:
        UserError: a value of the wrong kind.
    """
    found: dict[str, Any] = {}
    for option, key in SAME.items():
        if option in options:
            found = _put(found, key, options[option])
    try:
        if "batch_size" in options:
            world = max(1, int(options.get("world_size", 1)))
            found = _put(found, "optim.batch_size", int(options["batch_size"]) * world)
        if "learning_rate" in options:
            found = _put(found, "optim.backbone_lr", float(options["learning_rate"]) * 0.1)
    except (TypeError, ValueError) as error:
        raise UserError(f"the checkpoint's opt has a value of the wrong kind: {error}") from error
    distance = str(options.get("distill_loss", "cos"))
    found = _put(found, "loss.distill", DISTANCES.get(distance, distance))
    if not options.get("size_augment", 1):
        found = _put(found, "data.word_mask", 0.0)
    return found


def stage_of(options: Mapping[str, Any] | None, *, decoder: bool) -> str:
    """The stage: 2 with a decoder; else 1, or sparse if trained only on sparse captions."""
    if decoder:
        return "2"
    trained = options is not None and "pretrain" in options
    return "1" if not trained or (options or {})["pretrain"] else "sparse"


def hub_name(options: Mapping[str, Any]) -> str | None:
    """The image tower's Hub id, if the command line names one and not a folder."""
    name = options.get("vit_type")
    if not isinstance(name, str) or name.count("/") != 1 or os.path.isabs(name):
        return None
    return None if name.startswith(".") else name


def _put(settings: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    return merge(settings, nest(key.split("."), value))
