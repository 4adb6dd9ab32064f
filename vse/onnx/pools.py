"""GPO as an exporter can write it down: its weights looked up instead of computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from vse.model.gpo import GPO


class TablePool(nn.Module):
    """A GPO whose weights for every length from `first` to `last` are computed beforehand.

    They depend on the number of tokens alone, so the result is the same; the recurrent network
    that gives them, which no exporter can write for varying lengths, is left out.
    """

    table: Tensor

    def __init__(self, pool: GPO, *, first: int, last: int) -> None:
        super().__init__()
        lengths = torch.arange(first, last + 1)
        with torch.no_grad():
            weights = pool.weights(lengths, longest=last, like=next(pool.parameters()))
        self.register_buffer("table", weights)  # (last - first + 1, last)
        self.first = first

    def forward(self, tokens: Tensor, *, mask: Tensor | None, lengths: Tensor) -> Tensor:
        """As `GPO.forward`: (B, L, C) -> (B, C)."""
        longest = tokens.shape[1]
        channels = tokens.transpose(1, 2)  # (B, C, L)
        if mask is not None:
            channels = channels.masked_fill(~mask[:, None, :], torch.finfo(tokens.dtype).min)
        ordered = channels.sort(dim=2, descending=True).values
        if mask is not None:
            beyond = torch.arange(longest)[None, :] >= lengths[:, None]
            ordered = ordered.masked_fill(beyond[:, None, :], 0.0)
        weights = self.table[lengths - self.first][:, :longest]
        return torch.einsum("bcl,bl->bc", ordered, weights)


@contextlib.contextmanager
def replace_pools(spans: Mapping[nn.Module, tuple[int, int]]) -> Iterator[None]:
    """Give modules a TablePool in place of their GPO `pool`, and the GPO back in the end.

    Args:
        spans: per module the least and the greatest number of tokens that it pools.
    """
    before = {module: module.pool for module in spans}
    try:
        for module, (first, last) in spans.items():
            pool = module.pool
            assert isinstance(pool, GPO)
            module.pool = TablePool(pool, first=first, last=last)
        yield
    finally:
        for module, pool in before.items():
            module.pool = pool
