"""preprocessing.json: how images and texts become what the towers read, for other programs."""

from __future__ import annotations

from typing import Any

from vse.model.d2s import D2SModel
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.long_texts import settle
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.runs.checkpoint_names import TOKENIZER


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
            "resize": {"keep_aspect": False, "filter": "bilinear", "antialias": True},
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
            "too_long": settle(text.get("too_long", "cut")),
            "end_ids": tokenizer.end_ids,
        },
        "embedding": {"width": description["width"], "normalised": True},
    }
