"""Alignment of images and texts. Pairs of the same image are neither positive nor negative.

v: image embeddings (B, D), t: text embeddings (B, D), image_index (B,): pair k is (v_k, t_k).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def cosine_scores(v: Tensor, t: Tensor) -> Tensor:
    """(B, D) x (B, D) -> (B, B) cosines, rows images, columns texts; in float32."""
    v, t = F.normalize(v.float(), dim=-1), F.normalize(t.float(), dim=-1)
    # Autocast would round the scores to half precision, and margins are differences of them.
    with torch.autocast(v.device.type, enabled=False):
        return v @ t.T


def same_image(image_index: Tensor) -> Tensor:
    """(B,) -> (B, B) bool, True where row and column are the same image, the diagonal included."""
    return image_index[:, None] == image_index[None, :]


def hinge(
    scores: Tensor, image_index: Tensor, *, margin: float, hardest: bool, reduction: str = "sum"
) -> Tensor:
    """Bidirectional hinge of VSE++ (Faghri et al., BMVC 2018), eq. 5 and 6.

    sum over k of  f_l [margin + s(v_k, t_l) - s(v_k, t_k)]+  +  f_l [margin + s(v_l, t_k) - s(v_k,
    t_k)]+  with f the sum over negatives l, or the hardest of them; "mean" divides by B.
    """
    own = scores.diagonal()
    masked = same_image(image_index)
    by_image = (margin + scores - own[:, None]).clamp(min=0).masked_fill(masked, 0)
    by_text = (margin + scores - own[None, :]).clamp(min=0).masked_fill(masked, 0)
    if hardest:
        loss = by_image.amax(dim=1).sum() + by_text.amax(dim=0).sum()
    else:
        loss = by_image.sum() + by_text.sum()
    return loss / len(scores) if reduction == "mean" else loss


def collapsed_hinge(
    image_index: Tensor, *, margin: float, hardest: bool, reduction: str = "sum"
) -> Tensor:
    """What `hinge` gives when all embeddings are alike: 2 * B * margin for the hardest."""
    negatives = (~same_image(image_index)).sum(dim=1).float()
    if hardest:
        negatives = negatives.clamp(max=1)
    total = 2 * margin * negatives.sum()
    return total / len(image_index) if reduction == "mean" else total


def collapsed_infonce(image_index: Tensor) -> Tensor:
    """What `InfoNCE` gives when all embeddings are alike: ln B where no pair is masked."""
    candidates = (~same_image(image_index)).sum(dim=1) + 1
    # Masking is symmetric, so both directions have the same candidates.
    return candidates.float().log().mean()


class InfoNCE(nn.Module):
    """Mean cross-entropy of each image over texts and each text over images (CLIP)."""

    def __init__(self, *, temperature: float = 0.07) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, scores: Tensor, image_index: Tensor) -> Tensor:
        """Cosines (B, B) -> scalar."""
        # A scale beyond 100 is where CLIP found training to become unstable.
        logits = scores * self.log_scale.exp().clamp(max=100)
        others = same_image(image_index) & ~_diagonal(logits)
        logits = logits.masked_fill(others, float("-inf"))
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class SigLIP(nn.Module):
    """Sigmoid loss over all pairs, summed and divided by B (Zhai et al., ICCV 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, scores: Tensor, image_index: Tensor) -> Tensor:
        """Cosines (B, B) -> scalar."""
        logits = scores * self.log_scale.exp() + self.bias
        diagonal = _diagonal(logits)
        others = same_image(image_index) & ~diagonal
        sign = torch.where(diagonal, 1.0, -1.0)
        losses = -F.logsigmoid(sign * logits).masked_fill(others, 0)
        return losses.sum() / len(scores)


def _diagonal(square: Tensor) -> Tensor:
    return torch.eye(len(square), dtype=torch.bool, device=square.device)
