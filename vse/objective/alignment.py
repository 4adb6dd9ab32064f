"""Alignment losses. Other pairs of the same image are neither positive nor negative.

v: image embeddings (B, D), t: text embeddings (k B, D), image_index (B,). Each image has k
consecutive texts (`data.texts_per_step`, 1 by default): text m belongs to image m // k. Each pair
(v_{m // k}, t_m) is a positive of its own; the other texts of the image are masked, unless
`loss.positives` puts them into one softmax. The sum over pairs is divided by k, so that the loss
has the same scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vse.recipes import LossConfig


def cosine_scores(v: Tensor, t: Tensor) -> Tensor:
    """(B, D) x (kB, D) -> (B, kB) cosines in float32; rows are images, columns texts."""
    v, t = F.normalize(v.float(), dim=-1), F.normalize(t.float(), dim=-1)
    # Autocast would round the scores to half precision, but margins are small differences of
    # scores.
    with torch.autocast(v.device.type, enabled=False):
        return v @ t.T


def same_image(image_index: Tensor, texts: int = 1) -> Tensor:
    """(B,) -> (B, kB) bool, True where the text of the column describes the image of the row.

    Args:
        texts: k, the number of texts per image.
    """
    return image_index[:, None] == image_index.repeat_interleave(texts)[None, :]


def hinge(
    scores: Tensor, image_index: Tensor, *, margin: float, hardest: bool, reduction: str = "sum"
) -> Tensor:
    """Bidirectional hinge of VSE++ (Faghri et al., BMVC 2018), eq. 5 and 6.

    sum over k of  f_l [margin + s(v_k, t_l) - s(v_k, t_k)]+  +  f_l [margin + s(v_l, t_k) - s(v_k,
    t_k)]+  with f the sum over negatives l, or the hardest of them; "mean" divides by B.

    Args:
        scores: cosines (B, kB).
    """
    own, texts = own_scores(scores), texts_per_image(scores)
    masked = same_image(image_index, texts)
    of_image = scores.repeat_interleave(texts, dim=0)  # (kB, kB): each pair's image, all texts
    own_texts = masked.repeat_interleave(texts, dim=0)
    by_image = (margin + of_image - own[:, None]).clamp(min=0).masked_fill(own_texts, 0)
    by_text = (margin + scores - own[None, :]).clamp(min=0).masked_fill(masked, 0)
    if hardest:
        loss = by_image.amax(dim=1).sum() + by_text.amax(dim=0).sum()
    else:
        loss = by_image.sum() + by_text.sum()
    loss = loss / texts
    return loss / len(scores) if reduction == "mean" else loss


def collapsed_hinge(
    image_index: Tensor, *, margin: float, hardest: bool, reduction: str = "sum", texts: int = 1
) -> Tensor:
    """The value of `hinge` if all embeddings are equal: 2 * B * margin for the hardest."""
    negatives = (~same_image(image_index)).sum(dim=1).float()
    if hardest:
        total = 2 * margin * negatives.clamp(max=1).sum()
    else:
        # A text is compared with each other image once, an image with all of their texts.
        total = (1 + texts) * margin * negatives.sum()
    return total / len(image_index) if reduction == "mean" else total


def collapsed_infonce(image_index: Tensor, *, texts: int = 1, positives: str = "apart") -> Tensor:
    """The value of `infonce` if all embeddings are equal: ln B if no pair is masked."""
    others = (~same_image(image_index)).sum(dim=1).float()
    # Masking is symmetric, so both directions leave out the same images.
    chances = {"apart": texts * others + 1, "supcon": texts * (others + 1), "milnce": others + 1}
    return (chances[positives].log().mean() + (others + 1).log().mean()) / 2


def infonce(logits: Tensor, image_index: Tensor, *, positives: str = "apart") -> Tensor:
    """Mean cross-entropy of each image over texts and each text over images (CLIP).

    Args:
        logits: (B, kB).
        positives: apart: each of an image's k texts in its own softmax with the negatives; or all
            in one softmax p: supcon, - 1/k sum over them of ln p (Khosla et al., NeurIPS 2020, eq.
            2: L_out); milnce, - ln of their sum of p (Miech et al., CVPR 2020, eq. 1).
    """
    texts = texts_per_image(logits)
    own = torch.arange(len(logits), device=logits.device).repeat_interleave(texts)
    same = same_image(image_index, texts)
    one_softmax = logits.masked_fill(same & ~_own_texts(logits), float("-inf"))
    by_text = F.cross_entropy(one_softmax.T, own)
    if positives == "apart":
        # Each pair's image against all texts, (kB, kB).
        of_image = logits.repeat_interleave(texts, dim=0)
        others = same.repeat_interleave(texts, dim=0) & ~_diagonal(of_image)
        target = torch.arange(len(of_image), device=logits.device)
        by_image = F.cross_entropy(of_image.masked_fill(others, float("-inf")), target)
    else:
        mine = own_scores(one_softmax.log_softmax(dim=1)).view(-1, texts)
        by_image = -(mine if positives == "supcon" else mine.logsumexp(dim=1)).mean()
    return (by_image + by_text) / 2


def siglip(logits: Tensor, image_index: Tensor) -> Tensor:
    """Sigmoid loss over all pairs, summed and divided by kB (Zhai et al., ICCV 2023).

    Args:
        logits: (B, kB).
    """
    own = _own_texts(logits)
    others = same_image(image_index, texts_per_image(logits)) & ~own
    sign = torch.where(own, 1.0, -1.0)
    losses = -F.logsigmoid(sign * logits).masked_fill(others, 0)
    return losses.sum() / logits.shape[1]


def texts_per_image(scores: Tensor) -> int:
    """k of scores (B, kB)."""
    return scores.shape[1] // scores.shape[0]


def own_scores(scores: Tensor) -> Tensor:
    """(B, kB) -> (kB,), the score of each text with its own image."""
    blocks = scores.view(len(scores), len(scores), -1)
    return blocks.diagonal().T.reshape(-1)


def align_nested(
    v: Tensor, t: Tensor, image_index: Tensor, config: LossConfig, **options: Any
) -> dict[str, Tensor]:
    """Embeddings (B, D), (kB, D) -> the loss of `align`, summed over nested prefixes.

    sum over m in {`loss.widths`, D} of L(v[:m], t[:m]): Matryoshka representation learning
    (Kusupati et al., NeurIPS 2022, eq. 1) with all weights 1.
    """
    pairs = [*((v[:, :width], t[:, :width]) for width in config.widths), (v, t)]
    cuts = [align(cosine_scores(*pair), image_index, config, **options) for pair in pairs]
    return {name: torch.stack([cut[name] for cut in cuts]).sum() for name in cuts[0]}


def align(
    scores: Tensor,
    image_index: Tensor,
    config: LossConfig,
    *,
    epoch: float,
    logits: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Cosines (B, kB) -> {"align"} and, except for SigLIP, {"collapsed"}: its value at collapse.

    Args:
        epoch: progress of training, in epochs. Before `sum_epochs`, the hinge sums over all
            negatives, ramped up during the first epoch; then it takes the hardest.
        logits: of the model, for InfoNCE and SigLIP.
    """
    texts = texts_per_image(scores)
    if config.align != "hinge":
        assert logits is not None
        if config.align == "siglip":
            return {"align": siglip(logits(scores), image_index)}
        manner = {"positives": config.positives}
        return {
            "align": infonce(logits(scores), image_index, **manner),
            "collapsed": collapsed_infonce(image_index, texts=texts, **manner),
        }
    hardest = epoch >= config.sum_epochs
    ramp = 1.0 if hardest else min(1.0, epoch)
    hinged: dict[str, Any] = {
        "margin": config.margin,
        "hardest": hardest,
        "reduction": config.align_reduction,
    }
    loss = hinge(scores, image_index, **hinged)
    collapsed = collapsed_hinge(image_index, texts=texts, **hinged)
    return {"align": ramp * loss, "collapsed": ramp * collapsed}


def _own_texts(scores: Tensor) -> Tensor:
    """(B, kB) bool, True where the text belongs to the row's pair."""
    return _diagonal(scores[:, : len(scores)]).repeat_interleave(texts_per_image(scores), dim=1)


def _diagonal(square: Tensor) -> Tensor:
    return torch.eye(len(square), dtype=torch.bool, device=square.device)
