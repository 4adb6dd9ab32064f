"""The exponential moving average of the weights, which is what is evaluated and kept."""

from __future__ import annotations

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vse.model.d2s import D2SModel


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights after every step; buffers are copied.

    Over the first steps the decay is (1 + step) / (10 + step), so that the random weights of the
    start do not linger.
    """

    def __init__(self, model: D2SModel, *, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: D2SModel, *, step: int) -> None:
        """Take the weights after `step` steps in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mean = get_ema_multi_avg_fn(decay)
        mean(list(self.model.parameters()), list(model.parameters()), step)
        for kept, now in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(now)
