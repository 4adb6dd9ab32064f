"""GPO, generalized pooling (Chen et al., CVPR 2021): learned weights for sorted values."""

from __future__ import annotations

import math

import numpy as np
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
        ordered = channels.gather(2, find_order(channels.detach(), mask))
        # Tokens that do not count are last, where the weights are zero.
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
        code = _rank_code(top, self.code_width, device=device)
        run = run_on_cpu if device.type == "cpu" else run_packed
        scores = self.linear(run(self.gru, code, unique)).squeeze(-1).float()  # (U, top)
        beyond = torch.arange(top)[None, :] >= unique[:, None]
        scores = scores.masked_fill(send(beyond, device), float("-inf"))
        table = nn.functional.pad((scores / TEMPERATURE).softmax(dim=-1), (0, longest - top))
        return table[send(where, device)]


def find_order(channels: Tensor, mask: Tensor | None) -> Tensor:
    """Token of each rank, (B, C, L): highest value first, tokens that do not count last.

    On a CPU, NumPy sorts many short rows four times as fast as PyTorch (docs/log.md).
    """
    negative = -channels
    if mask is not None:
        negative.masked_fill_(~mask[:, None, :], float("inf"))
    if negative.device.type != "cpu" or negative.dtype != torch.float32:
        return negative.argsort(dim=2)
    return torch.from_numpy(np.argsort(negative.numpy(), axis=2))


def run_packed(gru: nn.GRU, code: Tensor, lengths: Tensor) -> Tensor:
    """Run PyTorch's GRU over the first n of the codes (top, W), for each n of `lengths` (U,).

    `lengths` are on the CPU, in descending order, the first is top. Returns the mean of the hidden
    states of both directions, (U, top, H); values beyond a length have no meaning.
    """
    packed = pack_padded_sequence(code.expand(len(lengths), -1, -1), lengths, batch_first=True)
    hidden, _ = pad_packed_sequence(gru(packed)[0], batch_first=True)  # (U, top, 2 H)
    forth, back = hidden.chunk(2, dim=-1)
    return (forth + back) / 2


def run_on_cpu(gru: nn.GRU, code: Tensor, lengths: Tensor) -> Tensor:
    """As `run_packed`, up to rounding, in less than half the time on a CPU.

    There, PyTorch runs the directions one after the other, a dozen small operations per rank. Here,
    both take their steps together, and shorter lengths join the backward direction at their last
    rank. (On a GPU, cuDNN's GRU is a single kernel.) Always in float32.
    """
    top, width = len(code), gru.hidden_size
    forth, back = gru.all_weights  # weights (3 H, W) and (3 H, H), biases (3 H,) and (3 H,)
    with torch.autocast("cpu", enabled=False):
        of_input, of_state, input_bias, state_bias = (
            torch.stack(pair).float() for pair in zip(forth, back, strict=True)
        )
        codes = torch.stack((code, code.flip(0))).float()
        inputs = torch.baddbmm(input_bias[:, None], codes, of_input.transpose(1, 2))
        gates, candidates = (
            part.unsqueeze(2).unbind(1) for part in inputs.split((2 * width, width), dim=-1)
        )  # each step: (2, 1, 2 H) and (2, 1, H)
        of_state, state_bias = of_state.transpose(1, 2), state_bias[:, None]
        joined = torch.arange(top - 1, -1, -1)[:, None] < lengths  # (top, U)
        active = torch.stack((torch.ones_like(joined), joined), dim=1).unsqueeze(-1).float()
        ragged = len(lengths) > 1
        state = inputs.new_zeros(2, len(lengths), width)
        states = []
        for step in range(top):
            own = torch.baddbmm(state_bias, state, of_state)  # (2, U, 3 H)
            own_gates, own_candidate = own.split((2 * width, width), dim=-1)
            reset, update = (gates[step] + own_gates).sigmoid().chunk(2, dim=-1)
            candidate = torch.addcmul(candidates[step], reset, own_candidate).tanh()
            state = torch.lerp(candidate, state, update)
            if ragged:
                state = state * active[step]
            states.append(state)
        forward, backward = torch.stack(states, dim=2).unbind(0)  # (U, top, H) each
        return (forward + backward.flip(1)) / 2


def _rank_code(count: int, width: int, *, device: torch.device) -> Tensor:
    """Sinusoidal code of ranks 0 .. count - 1, (count, width): sines at even, cosines at odd."""
    rank = torch.arange(count, device=device, dtype=torch.float32)[:, None]
    steps = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angle = rank * torch.exp(steps * (-math.log(10000.0) / width))
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
