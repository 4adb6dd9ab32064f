"""BatchNorm over the tokens of the global batch, across processes and chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vse.model.collectives import process_count, sum_over_processes


class TokenBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d on rows of tokens, with statistics over all processes.

    Processes hold different numbers of tokens, so sums and counts are added up, not means.
    (PyTorch's SyncBatchNorm only works on GPUs.) With one process it is BatchNorm1d.
    """

    paused = False  # whether updates of the running statistics are paused

    def forward(self, input: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        if not self.training:
            return super().forward(input)
        if process_count() > 1:
            return self._normalise_together(input)
        if not self.paused:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        # Update copies instead: checkpointing needs the same tensors in the recomputation.
        statistics = self.running_mean.clone(), self.running_var.clone()
        return nn.functional.batch_norm(
            input, *statistics, self.weight, self.bias, training=True, eps=self.eps
        )

    def _normalise_together(self, rows: Tensor) -> Tensor:
        x = rows.float()
        count = x.new_full((1,), float(len(x)))
        # First the mean, then the squares around it: E[x^2] - E[x]^2 would lose precision.
        sums = sum_over_processes(torch.cat((x.sum(dim=0), count)))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        variance = sum_over_processes(((x - mean) ** 2).sum(dim=0)) / total
        if not self.paused:
            self._follow(mean.detach(), variance.detach() * total / (total - 1))
        normal = (x - mean) * torch.rsqrt(variance + self.eps)
        return (normal * self.weight + self.bias).to(rows.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1


@contextlib.contextmanager
def pause_statistics(module: nn.Module) -> Iterator[None]:
    """Pause updates of running statistics, for rows that were already counted."""
    layers = [
        part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    ours = [(layer, layer.paused) for layer in layers if isinstance(layer, TokenBatchNorm)]
    # A backbone's BatchNorm (ResNet) cannot be paused, but its momentum can be zero.
    kept = [
        (layer, layer.momentum, layer.num_batches_tracked.clone())
        for layer in layers
        if not isinstance(layer, TokenBatchNorm) and layer.num_batches_tracked is not None
    ]
    for layer, _ in ours:
        layer.paused = True
    for other, _, _ in kept:
        other.momentum = 0.0
    try:
        yield
    finally:
        for layer, before in ours:
            layer.paused = before
        for other, momentum, tracked in kept:
            other.momentum = momentum
            assert other.num_batches_tracked is not None
            other.num_batches_tracked.copy_(tracked)
