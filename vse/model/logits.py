"""Cosines -> logits at a learnt scale: what InfoNCE and SigLIP compare; state of the model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vse.recipes import LossConfig


class Logits(nn.Module):
    """a s at the scale a, 100 at most (InfoNCE), or a s + b with a bias (SigLIP)."""

    def __init__(self, *, scale: float, bias: float | None = None) -> None:
        super().__init__()
        # Of one element, not of none: FSDP shares out no scalars.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.bias = None if bias is None else nn.Parameter(torch.tensor([bias]))

    def forward(self, scores: Tensor) -> Tensor:
        """Cosines -> logits of the same shape."""
        scale = self.log_scale.exp()
        if self.bias is None:
            # A scale beyond 100 is where CLIP found training to become unstable.
            return scores * scale.clamp(max=100)
        return scores * scale + self.bias


def make_logits(loss: LossConfig, *, batch_size: int) -> Logits | None:
    """As a loss starts with; None for the hinge."""
    if loss.align == "infonce":
        return Logits(scale=1 / loss.temperature)
    if loss.align == "siglip":
        # At the start a pair is as likely to be a positive as it is among those of the batch.
        return Logits(scale=10.0, bias=-math.log(batch_size - 1))
    return None
