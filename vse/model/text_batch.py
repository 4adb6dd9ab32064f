"""A batch of token ids whose lengths are known without a device synchronization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vse.model.transfer import send


@dataclass(frozen=True)
class TextBatch:
    """Texts padded to the longest of the batch.

    ids: (B, L) int64, padded. mask: (B, L) bool, True = token; None if nothing is padded.
    lengths: (B,) int64, always on the CPU. real: (T,) flat positions of the tokens in (B * L), so
    that layers that must not see padding run on T rows. states: (T, W) cached output of a frozen
    backbone, or None.
    """

    ids: Tensor
    mask: Tensor | None
    lengths: Tensor
    real: Tensor
    states: Tensor | None = None

    def to(self, device: torch.device) -> TextBatch:
        return self._map(lambda tensor: send(tensor, device))

    def pin_memory(self) -> TextBatch:
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> TextBatch:
        mask, states = (None if t is None else change(t) for t in (self.mask, self.states))
        return TextBatch(change(self.ids), mask, self.lengths, change(self.real), states)

    def take(self, rows: slice) -> TextBatch:
        """Some of the texts, padded to the longest of them."""
        lengths = self.lengths[rows]
        longest = int(lengths.max())
        real = torch.arange(longest)[None, :] < lengths[:, None]
        where = send(real.flatten().nonzero().squeeze(1), self.ids.device)
        padded = self.mask is not None and not bool(real.all())
        mask = self.mask[rows, :longest] if self.mask is not None and padded else None
        states = self.states
        if states is not None:
            first = int(self.lengths[: rows.start].sum())
            states = states[first : first + int(lengths.sum())]
        return TextBatch(self.ids[rows, :longest], mask, lengths, where, states)


def pad_texts(
    texts: Sequence[np.ndarray],
    *,
    pad_id: int,
    length: int | None = None,
    states: np.ndarray | None = None,
) -> TextBatch:
    """Batch texts (each (L_i,) int), padded to the longest or to `length`.

    `states` (sum of L_i, W) is a frozen backbone's output for their tokens.
    """
    counts = np.array([len(text) for text in texts])
    longest = int(counts.max()) if length is None else length
    real = np.arange(longest)[None, :] < counts[:, None]
    ids = np.full((len(texts), longest), pad_id, dtype=np.int64)
    ids[real] = np.concatenate(texts)
    return TextBatch(
        ids=torch.from_numpy(ids),
        mask=None if real.all() else torch.from_numpy(real),
        lengths=torch.from_numpy(counts),
        real=torch.from_numpy(np.flatnonzero(real)),
        states=None if states is None else torch.from_numpy(states),
    )
