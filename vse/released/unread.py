"""Weights that the released code carries along without reading them, which its loader asks for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vse.model.d2s import D2SModel


def make_unread(model: D2SModel, *, teacher: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """What a released state dict has besides the weights of our model.

    Poolers are zero, the second batch norm is as new; nothing in the released code reads them.

    Args:
        teacher: weights of the teacher's text tower under released names (`txt_enc.X`), if known.
    """
    width = model.text.fc.out_features
    found = {
        **_pooler("txt_enc.bert", model.text.fc.in_features),
        "txt_enc.mlp.bns.1.weight": torch.ones(width),
        "txt_enc.mlp.bns.1.bias": torch.zeros(width),
        "txt_enc.mlp.bns.1.running_mean": torch.zeros(width),
        "txt_enc.mlp.bns.1.running_var": torch.ones(width),
        "txt_enc.mlp.bns.1.num_batches_tracked": torch.tensor(0),
    }
    places = _places(model.image.backbone)
    # Swin's pooler has no weights.
    found |= places or _pooler("img_enc.visual_encoder", model.image.fc.in_features)
    if model.decoder is None:
        return found
    if hasattr(model.decoder, "blocks"):
        found["prompt_learner.mask_token"] = torch.zeros_like(model.decoder.mask_tokens)
    if teacher is not None:
        whole = {**found, **teacher}
        found |= {
            f"long_{key}": value for key, value in whole.items() if key.startswith("txt_enc.")
        }
    return found


def _pooler(where: str, width: int) -> dict[str, Tensor]:
    return {
        f"{where}.pooler.dense.weight": torch.zeros(width, width),
        f"{where}.pooler.dense.bias": torch.zeros(width),
    }


def _places(backbone: nn.Module) -> dict[str, Tensor]:
    """Swin's tables of places, which transformers 4 keeps among the weights."""
    found = {}
    for name, buffer in backbone.named_buffers():
        if name.endswith("relative_position_index"):
            side = round(buffer.numel() ** 0.5)
            place = name.replace("attention.relative_position_bias.", "attention.self.")
            found[f"img_enc.visual_encoder.{place}"] = buffer.view(side, side).clone()
    return found
