"""Checkpoints as the released code writes them, with its own names, from the golden pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vse
from tests.golden.ours import released
from tests.golden.pair import Pair, is_integer
from tests.golden.small import read_small
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.tokenizer import TextTokenizer

# What the released code's own command for this model would be.
OPTIONS = {
    "img_res": 48,
    "vit_type": "google/vit-base-patch16-224-in21k",
    "embed_size": 512,
    "batch_size": 64,
    "world_size": 2,
    "learning_rate": 5e-4,
    "lr_schedules": [3, 5],
    "decay_rate": 0.1,
    "grad_clip": 1.5,
    "num_epochs": 7,
    "margin": 0.3,
    "vse_mean_warmup_epochs": 2,
    "distill_loss": "l2",
    "no_res_embed": True,
    "size_augment": 1,
    "pretrain": False,
    "distill": True,
    "use_decoder": True,
    "decoder_depth": 2,
    "num_tokens": 10,
    "gpo": False,
    "workers": 3,
    "f30k_img_path": "/home/somebody/data/f30k/flickr30k-images",
}


def weights_of(pair: Pair, stage: int) -> dict[str, Tensor]:
    """The state dict of the released model in the golden run."""
    found = {key: torch.from_numpy(value) for key, value in pair.weights(stage).items()}
    for key, shape in pair.shapes[stage].items():
        if is_integer(key):
            found[key] = torch.arange(max(1, int(torch.tensor(shape).prod()))).view(shape)
    if stage == 2:
        # The teacher's names, which the small pairs leave out, and values of its own.
        for key in list(found):
            if key.startswith("txt_enc."):
                found[f"long_{key}"] = found[key] + 1
    return found


def save_released(
    path: Path,
    weights: dict[str, Tensor],
    options: dict[str, Any] | None,
    *,
    prefix: str = "",
) -> Path:
    """What the released code's training leaves."""
    content: dict[str, Any] = {"model": {prefix + key: value for key, value in weights.items()}}
    if options is not None:
        content |= {"opt": argparse.Namespace(**options)}
    torch.save({**content, "epoch": 3, "best_rsum": 512.3, "Eiters": 999}, path)
    return path


def save_as_released(path: Path, run: Path, *, prefix: str = "") -> Path:
    """The model of a run of ours, as if the released code had trained it."""
    model = vse.load(run, device="cpu")
    # The released code has one loss, whose margin is not learnt.
    own = {k: v for k, v in model.model.state_dict().items() if not k.startswith("logits.")}
    weights = {released(key): value for key, value in own.items()}
    options = {"img_res": model.px, "pretrain": model.model.decoder is None, "workers": 0}
    return save_released(path, weights, options, prefix=prefix)


def make_tokenizer(size: int = 120) -> TextTokenizer:
    """A tokenizer of exactly so many tokens."""
    words = [first + second for first in "abcdefghij" for second in "abcdefghij"]
    made = tokenizers.build([" ".join(words)], vocab_size=size)
    assert made.vocab_size == size
    return made


def golden(name: str = "vit_cos") -> Pair:
    return read_small(name)
