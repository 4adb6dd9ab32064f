"""The released code's command line and our settings: one table both ways."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from data.errors import UserError
from vse.recipes.files import merge

# Of the same meaning on both sides. What the weights tell is not read from here, only written.
SAME = {
    "img_res": "image.px",
    "embed_size": "width",
    "num_tokens": "decoder.tokens",
    "decoder_depth": "decoder.depth",
    "no_res_embed": "decoder.residual",  # its name says the reverse of its meaning
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
# What the released code reads besides, with the values of its own parser.
OTHERS = {
    "aggr_ratio": 0.4,
    "attention_weight": 0.8,
    "bert_path": "bert-base-uncased",
    "coco_img_path": "coco-images/",
    "cross_attention": False,
    "data_path": "data/",
    "dataset": "f30k",
    "dist_backend": "nccl",
    "dist_url": "env://",
    "embedding_warmup_epochs": 0,
    "eval": 1,
    "evaluate_cxc": 0,
    "f30k_img_path": "flickr30k-images/",
    "gpu_id": 0,
    "local_rank": 0,
    "log_step": 200,
    "logger_name": "runs/converted",
    "loss": "vse",
    "max_violation": True,
    "max_word": 90,
    "model_name": "runs/converted",
    "multi_gpu": 0,
    "rank": 0,
    "ratio_weight": 2.0,
    "save_results": 1,
    "seed": 0,
    "shard_size": 256,
    "sparse_ratio": 0.5,
    "temp": 0.5,
    "val_step": 500,
    "weight_path": "runs/converted/pretrain/model_best.pth",
    "world_size": 1,
}


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a released command line gives, nested like a recipe.

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
    """The stage: with a decoder 2; else 1, or sparse if trained on sparse captions alone."""
    if decoder:
        return "2"
    trained = options is not None and "pretrain" in options
    return "1" if not trained or (options or {})["pretrain"] else "sparse"


def options_of(recipe: Mapping[str, Any], *, stage: str) -> dict[str, Any]:
    """The released command line that comes nearest to our settings."""
    decoder, loss = recipe["decoder"], recipe["loss"]
    found = dict(OTHERS)
    for option, key in SAME.items():
        value = _get(recipe, key)
        found[option] = list(value) if isinstance(value, tuple) else value
    distances = {ours: theirs for theirs, ours in DISTANCES.items()}
    return found | {
        "batch_size": recipe["optim"]["batch_size"],
        "distill": stage == "2",
        "pretrain": stage == "1",
        "use_decoder": decoder["kind"] == "blocks",
        "gpo": decoder["pooling"] == "gpo",
        "distill_loss": distances.get(loss["distill"], loss["distill"]),
        "size_augment": int(recipe["data"]["word_mask"] > 0),
        "vit_type": _vit_type(recipe["image"]),
    }


def hub_name(options: Mapping[str, Any]) -> str | None:
    """The image tower's hub id, if the command line named one and no folder of another machine."""
    name = options.get("vit_type")
    if not isinstance(name, str) or name.count("/") != 1 or os.path.isabs(name):
        return None
    return None if name.startswith(".") else name


def _vit_type(image: Mapping[str, Any]) -> str:
    if image["name"] is not None:
        return str(image["name"])
    return str(image["config"]["model_type"])


def _put(settings: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return merge(settings, value)


def _get(settings: Mapping[str, Any], key: str) -> Any:
    found: Any = settings
    for part in key.split("."):
        found = found[part]
    return found
