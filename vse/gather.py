"""Embeddings of all processes in one tensor, the gradient going back to where they came from."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """Forward: concatenate over ranks. Backward: sum the gradients of all ranks, keep our rows."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.rank, ctx.rows = dist.get_rank(), local.shape[0]
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.rank * ctx.rows : (ctx.rank + 1) * ctx.rows]


def gather(local: Tensor) -> Tensor:
    """(b, ...) on each of W processes -> (W * b, ...) in rank order on all of them.

    Every process then computes the same global loss. The summed gradients are W times too large,
    and the mean that DistributedDataParallel takes over W makes them those of one process. (The
    gather of Accelerate has no gradient.) All ranks need equally many rows.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    if local.is_floating_point():
        gathered: Tensor = _Gather.apply(local)
        return gathered
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)
