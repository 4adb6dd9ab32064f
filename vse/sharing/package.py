"""The folder of a shared model: everything to rebuild it, without local paths."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.environment import strip_path
from data.files.atomic import write_json
from vse.model.backbones.origins import list_origins
from vse.model.d2s import D2SModel
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.model.tokenizer.tokens import deterministic_way
from vse.runs.config import CONFIG, PREPROCESSING, TOKENIZER
from vse.runs.folder import RunFolder


def save_files(
    folder: Path, model: D2SModel, tokenizer: TextTokenizer, config: dict[str, Any]
) -> None:
    """Write model.safetensors, tokenizer/, preprocessing.json and, last, config.json: with it the
    folder is whole."""
    RunFolder(folder).save_model(model)
    tokenizers.save(tokenizer, folder / TOKENIZER)
    write_json(folder / PREPROCESSING, describe_preprocessing(model, tokenizer, config["model"]))
    write_json(folder / CONFIG, strip_config(config))


def strip_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json without the paths of the machine that trained the model."""
    kept = copy.deepcopy(dict(config))
    data = kept.get("data") or {}
    kept["data"] = {key: data.get(key) for key in ("dataset", "split_counts", "sparse_side")}
    kept["init"] = None
    # While folder names can be distinguished from names on the Hub.
    kept.setdefault("base_models", list_origins(kept.get("recipe") or {}))
    for part in ("recipe", "recipe_raw", "fingerprint"):
        _shorten_paths(kept.get(part))
    return kept


def _shorten_paths(value: Any) -> None:
    """Shorten absolute paths in place to their last part: a backbone may be a local folder."""
    items = value.items() if isinstance(value, dict) else enumerate(value or ())
    for key, inner in list(items):
        if isinstance(inner, dict | list):
            _shorten_paths(inner)
        elif isinstance(inner, str):
            value[key] = strip_path(inner)


def describe_preprocessing(
    model: D2SModel, tokenizer: TextTokenizer, description: dict[str, Any]
) -> dict[str, Any]:
    """Plain JSON.

    Args:
        description: `model` of config.json.
    """
    text = description["text"]
    return {
        "format": 1,
        "image": {
            "px": description["image"]["px"],
            "resize": {
                "keep_aspect": False,
                "filter": "bilinear",
                "antialias": description["image"].get("antialias", True),
            },
            "channels": "RGB",
            "scale": 1 / 255,
            "mean": [round(value, 6) for value in model.image.mean.tolist()],
            "std": [round(value, 6) for value in model.image.std.tolist()],
        },
        "text": {
            "tokenizer": f"{TOKENIZER}/{tokenizers.FILE}",
            "clean": tokenizer.clean,
            "pad_id": tokenizer.pad_id,
            "max_tokens": text["max_tokens"],
            "too_long": deterministic_way(text.get("too_long", "cut")),
            "end_ids": tokenizer.end_ids,
        },
        "embedding": {"width": description["width"], "normalised": True},
    }
