"""GPO, generalized pooling (Chen et al., CVPR 2021): learned weights for sorted values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from vse.model.transfer import send

TEMPERATURE = 0.1


class GPO(nn.Module):
    """Sort every channel of a set of tokens in descending order and take a learned weighted sum.

    The weight of a rank only depends on the number of tokens, not on their values: a sinusoidal
    code per rank -> bidirectional GRU, directions averaged -> Linear -> softmax over the ranks.
    """

    def __init__(self, *, code_width: int = 32, hidden: int = 32) -> None:
        super().__init__()
        self.code_width = code_width
        self.gru = nn.GRU(code_width, hidden, num_layers=1, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(hidden, 1, bias=False)

    def forward(self, tokens: Tensor, *, mask: Tensor | None, lengths: Tensor) -> Tensor:
        """Pool (B, L, C) to (B, C).

        Args:
            mask: (B, L) bool, True for tokens that count; None if all of them do.
            lengths: (B,) number of tokens that count, on the CPU, to avoid a device
                synchronization.
        """
        longest = tokens.shape[1]
        weights = self.weights(lengths, longest=longest, like=tokens)  # (B, L)
        channels = tokens.transpose(1, 2).contiguous()  # (B, C, L): sort along contiguous memory
        if mask is not None:
            lowest = torch.finfo(channels.dtype).min
            channels = channels.masked_fill(~mask[:, None, :], lowest)
        ordered = channels.sort(dim=2, descending=True).values
        if mask is not None:
            ranks = torch.arange(longest, device=tokens.device)
            beyond = ranks >= send(lengths, tokens.device)[:, None]
            ordered = ordered.masked_fill(beyond[:, None, :], 0.0)
        return torch.einsum("bcl,bl->bc", ordered, weights.to(ordered.dtype))

    def weights(self, lengths: Tensor, *, longest: int, like: Tensor) -> Tensor:
        """Weights per rank, (B, longest); zero beyond each length.

        A batch has few different lengths, so the GRU runs once per length, not once per sample.
        """
        unique, where = torch.unique(lengths, return_inverse=True)
        # torch.unique sorts ascending, but packing needs the longest first.
        unique, where = unique.flip(0), len(unique) - 1 - where
        device = like.device
        top = int(unique[0])
        code = _rank_code(top, self.code_width, device=device).expand(len(unique), -1, -1)
        states, _ = self.gru(pack_padded_sequence(code, unique, batch_first=True))
        hidden, _ = pad_packed_sequence(states, batch_first=True)  # (U, top, 2 * hidden)
        forth, back = hidden.chunk(2, dim=-1)
        scores = self.linear((forth + back) / 2).squeeze(-1).float()  # (U, top)
        beyond = torch.arange(top)[None, :] >= unique[:, None]
        scores = scores.masked_fill(send(beyond, device), float("-inf"))
        table = nn.functional.pad((scores / TEMPERATURE).softmax(dim=-1), (0, longest - top))
        return table[send(where, device)]


def _rank_code(count: int, width: int, *, device: torch.device) -> Tensor:
    """Sinusoidal code of ranks 0 .. count - 1, (count, width): sines at even, cosines at odd."""
    rank = torch.arange(count, device=device, dtype=torch.float32)[:, None]
    steps = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angle = rank * torch.exp(steps * (-math.log(10000.0) / width))
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
