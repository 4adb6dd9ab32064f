"""Cosines -> logits with a learned scale, for InfoNCE and SigLIP; part of the model's state."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vse.recipes import LossConfig

LARGEST = 100  # CLIP's training became unstable with a larger scale


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
        return scores * scale if self.bias is None else scores * scale + self.bias

    @torch.no_grad()
    def limit(self) -> None:
        """Keep the scale of InfoNCE within its limit, before each step.

        The weight is limited, as in CLIP: a limit in the forward pass would have no gradient beyond
        it, so the scale could not become smaller again.
        """
        if self.bias is None:
            self.log_scale.clamp_(max=math.log(LARGEST))


def make_logits(loss: LossConfig, *, batch_size: int) -> Logits | None:
    """The initial logits of a loss; None for the hinge."""
    if loss.align == "infonce":
        return Logits(scale=1 / loss.temperature)
    if loss.align == "siglip":
        # Initially, the probability of a positive matches its share in a batch.
        return Logits(scale=10.0, bias=-math.log(batch_size - 1))
    return None
