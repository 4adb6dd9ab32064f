"""What happened between two log lines."""

from __future__ import annotations

import time

import torch
from torch import Tensor


class Window:
    """Sums over the steps between two log lines, kept on the device until they are read."""

    def __init__(self) -> None:
        self.steps = 0
        self.samples = 0
        self._sums: dict[str, Tensor] = {}
        self._began = time.perf_counter()

    def add(self, parts: dict[str, Tensor], norm: Tensor, *, count: int) -> None:
        """Take one step's scalars in."""
        for name, value in {**parts, "grad_norm": norm}.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.steps += 1
        self.samples += count

    def means(self) -> tuple[dict[str, float], float]:
        """Mean of every part, and of the gradient norm. Waits for the device."""
        stacked = torch.stack(list(self._sums.values())) / max(1, self.steps)
        means = dict(zip(self._sums, stacked.tolist(), strict=True))
        return means, means.pop("grad_norm")

    def rate(self) -> float:
        """Samples per second, all processes together."""
        return self.samples / max(1e-9, time.perf_counter() - self._began)
