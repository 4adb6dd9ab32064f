"""The towers with plain tensors as inputs, as the ONNX files have them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from vse.model.d2s import D2SModel
from vse.model.gpo import GPO
from vse.model.text_batch import TextBatch


class ImageInput(nn.Module):
    """Normalized pixels (B, 3, px, px) -> (B, D), of length 1."""

    def __init__(self, model: D2SModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)


class TextInput(nn.Module):
    """Token ids and mask (B, L) int64, 1 = token, 0 = padding -> (B, D), of length 1."""

    def __init__(self, model: D2SModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.bool()
        # In evaluation mode padding is harmless, so every row passes through the head: an exporter
        # cannot handle a data-dependent number of rows.
        every = torch.arange(input_ids.shape[0] * input_ids.shape[1])
        batch = TextBatch(input_ids, mask, mask.sum(dim=1), every)
        return nn.functional.normalize(self.model.encode_text(batch), dim=-1)


class TablePool(nn.Module):
    """A GPO with precomputed weights for every length from `first` to `last`.

    They only depend on the number of tokens, so the result is the same. The GRU, which cannot be
    exported for varying lengths, is left out.
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
    """Replace the GPO `pool` of modules with a TablePool, and restore it at the end.

    Args:
        spans: minimum and maximum number of tokens per module.
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
