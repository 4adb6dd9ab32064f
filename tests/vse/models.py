"""Trained-looking models without training: random weights in a folder as a run leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from data.files.atomic import write_json
from data.settings.yaml_files import merge
from tests.vse.world import TINY, dense_of
from vse.model.build import assemble, describe
from vse.model.tokenizer import tokenizer as tokenizers
from vse.recipes import Recipe, build
from vse.runs.config import CONFIG, TOKENIZER
from vse.runs.folder import RunFolder


def write_model(
    folder: Path, images: Path, *, stage: str = "2", seed: int = 0, **changes: Any
) -> Path:
    """A model of the tiny recipe with random weights, its tokenizer made of the world's texts."""
    raw = merge(TINY, changes)
    for part in ("image", "text"):
        # One backbone instead of the other, not laid over it.
        if "config" in changes.get(part, {}):
            raw[part]["config"] = changes[part]["config"]
    recipe = build(Recipe, {key: value for key, value in raw.items() if key != "stages"})
    tokenizer = tokenizers.build(dense_of(images).values(), vocab_size=recipe.text.vocab_size)
    torch.manual_seed(seed)
    model = assemble(recipe, tokenizer=tokenizer, decoder=stage == "2")
    # As after training: batch norm has seen something.
    norm = model.text.mlp[1]
    norm.running_mean.normal_(std=0.1)
    norm.running_var.uniform_(0.5, 2.0)
    folder.mkdir(parents=True, exist_ok=True)
    RunFolder(folder).save_model(model)
    tokenizers.save(tokenizer, folder / TOKENIZER)
    config = {
        "stage": stage,
        "model": describe(model, recipe),
        "recipe": recipe.to_dict(),
        "recipe_raw": raw,
        "data": {"images": str(images.resolve()), "split_counts": {"train": 48}},
        "init": str(folder.resolve()),
        "fingerprint": {"stage": stage},
    }
    write_json(folder / CONFIG, config)
    return folder
