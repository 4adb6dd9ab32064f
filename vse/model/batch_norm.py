"""BatchNorm over the global batch of all processes, of tokens and inside backbones."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
            return _normalise_together(input, self, follow=not self.paused)
        if not self.paused:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        # Update copies instead: checkpointing needs the same tensors in the recomputation.
        statistics = self.running_mean.clone(), self.running_var.clone()
        return nn.functional.batch_norm(
            input, *statistics, self.weight, self.bias, training=True, eps=self.eps
        )


def share_statistics(module: nn.Module) -> None:
    """Make the BatchNorms of a library use the statistics of all processes, if there are several.

    In place: the weights keep their names. Layers in evaluation mode work as before.
    """
    if process_count() == 1:
        return
    for part in module.modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, TokenBatchNorm | _Shared):
            part.__class__ = _shared(type(part))  # type: ignore[arg-type]  # mypy on lru_cache


class _Shared(_BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        if not self.training:
            return super().forward(input)
        found = _normalise_together(input, self, follow=self.running_mean is not None)
        for name in ("drop", "act"):  # timm's BatchNormAct2d contains them
            after = getattr(self, name, None)
            found = found if after is None else after(found)
        return found


@functools.cache  # one class for layers of a kind, so that equal blocks are compiled once
def _shared(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f"Shared{kind.__name__}", (_Shared, kind), {})


def _normalise_together(input: Tensor, layer: _BatchNorm, *, follow: bool) -> Tensor:
    """What `layer` makes of (B, C, ...) with the statistics over all processes.

    Args:
        follow: whether to update its running statistics.
    """
    x = input.float()
    others = [0, *range(2, x.ndim)]
    shape = (-1, *[1] * (x.ndim - 2))  # of a value per channel
    count = x.new_full((1,), x.numel() / x.shape[1])
    # First the mean, then the squares around it: E[x^2] - E[x]^2 would lose precision.
    sums = sum_over_processes(torch.cat((x.sum(dim=others), count)))
    total = sums[-1].detach()
    mean = sums[:-1] / total
    centered = x - mean.view(shape)
    variance = sum_over_processes((centered**2).sum(dim=others)) / total
    if follow:
        _follow(layer, mean.detach(), variance.detach() * total / (total - 1))
    found = centered * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        found = found * layer.weight.view(shape) + layer.bias.view(shape)
    return found.to(input.dtype)


@torch.no_grad()
def _follow(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert layer.running_mean is not None and layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked += 1
    # Without a momentum, the mean over all batches.
    rate = 1 / layer.num_batches_tracked if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), rate)
    layer.running_var.lerp_(variance.to(layer.running_var.dtype), rate)


@contextlib.contextmanager
def pause_statistics(module: nn.Module) -> Iterator[None]:
    """Pause updates of running statistics, for rows that were already counted."""
    layers = [part for part in module.modules() if isinstance(part, _BatchNorm)]
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
