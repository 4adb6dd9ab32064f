"""Embeddings of all processes in one tensor, the gradient going back to where they came from."""

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
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(local: Tensor) -> Tensor:
    """The same shape on each process -> their sum on all of them, with gradient as in `gather`."""
    if process_count() == 1:
        return local
    total: Tensor = _Sum.apply(local)
    return total


def gather(local: Tensor) -> Tensor:
    """(b, ...) on each of W processes -> (W * b, ...) in rank order on all of them.

    Every process then computes the same global loss. The summed gradients are W times too large,
    and the mean that DistributedDataParallel takes over W makes them those of one process. (The
    gather of Accelerate has no gradient.) All ranks need equally many rows.
    """
    world = process_count()
    if world == 1:
        return local
    # Each process fills its own rows, and the sum is everybody's: the gradient comes with it.
    rows = [torch.zeros_like(local) for _ in range(world)]
    rows[dist.get_rank()] = local
    return sum_over_processes(torch.cat(rows))
