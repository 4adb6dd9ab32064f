"""Gathering embeddings from all processes, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Sum(torch.autograd.Function):
    """Forward: add up over ranks. Backward: add up the gradients of all ranks."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def process_count() -> int:
    """The number of training processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(local: Tensor) -> Tensor:
    """Sum tensors of the same shape over all processes, with gradients as in `gather`."""
    if process_count() == 1:
        return local
    total: Tensor = _Sum.apply(local)
    return total


def gather(local: Tensor) -> Tensor:
    """(b, ...) on each of W processes -> (W * b, ...) in rank order on all of them.

    Every process then computes the same global loss. The summed gradients are W times too large;
    averaging over W in DistributedDataParallel makes them equal to those of one process.
    (Accelerate's gather has no gradient.) All ranks need the same number of rows.
    """
    world = process_count()
    if world == 1:
        return local
    # Each process fills its own rows; the sum has all rows, with gradients.
    rows = [torch.zeros_like(local) for _ in range(world)]
    rows[dist.get_rank()] = local
    return sum_over_processes(torch.cat(rows))
