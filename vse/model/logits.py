"""Cosines -> logits with a learned scale, for InfoNCE and SigLIP; part of the model's state."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vse.recipes import LossConfig


class Logits(nn.Module):
    """a s with scale a <= 100 (InfoNCE), or a s + b with a bias (SigLIP)."""

    def __init__(self, *, scale: float, bias: float | None = None) -> None:
        super().__init__()
        # One element, not a scalar: FSDP cannot shard scalars.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.bias = None if bias is None else nn.Parameter(torch.tensor([bias]))

    def forward(self, scores: Tensor) -> Tensor:
        """Cosines -> logits of the same shape."""
        scale = self.log_scale.exp()
        if self.bias is None:
            # CLIP's training became unstable with a scale above 100.
            return scores * scale.clamp(max=100)
        return scores * scale + self.bias


def make_logits(loss: LossConfig, *, batch_size: int) -> Logits | None:
    """The initial logits of a loss; None for the hinge."""
    if loss.align == "infonce":
        return Logits(scale=1 / loss.temperature)
    if loss.align == "siglip":
        # Initially, the probability of a positive matches its share in a batch.
        return Logits(scale=10.0, bias=-math.log(batch_size - 1))
    return None
