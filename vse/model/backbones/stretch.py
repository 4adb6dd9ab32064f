"""Stretching a CLIP text tower for longer texts, as in Long-CLIP (Zhang et al., ECCV 2024).

CLIP's captions were short: its first 20 position embeddings are well trained and kept; the others
are stretched by linear interpolation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.errors import UserError

KEPT = 20


def stretch_codes(codes: Tensor, positions: int) -> Tensor:
    """(P, W) -> (positions, W).

    The embedding of position p >= 20 is that at 20 + (p - 20) (P - 20) / (positions - 20),
    interpolated linearly between two embeddings, or extrapolated at the end. 77 become Long-CLIP's
    248.

    Raises:
        UserError: not more positions than before, or too few to start with.
    """
    count = len(codes)
    if not KEPT + 1 < count < positions:
        raise UserError(
            f"text.positions is {positions}, but the text tower has {count} positions: their "
            f"number can only grow, and must be above {KEPT + 1}"
        )
    rate = (count - KEPT) / (positions - KEPT)
    places = KEPT + torch.arange(positions - KEPT, dtype=torch.float64) * rate
    below = places.long().clamp(max=count - 2)
    weight = (places - below)[:, None].to(codes)
    drawn_out = codes[below] * (1 - weight) + codes[below + 1] * weight
    return torch.cat((codes[:KEPT], drawn_out))


def stretch_parameter(codes: nn.Parameter, positions: int) -> nn.Parameter:
    """`stretch_codes` of a tower's own parameter. Raises UserError."""
    return nn.Parameter(stretch_codes(codes.detach(), positions))
