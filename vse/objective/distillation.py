"""Distillation of stage 2: what the sparse text's embedding takes over from the dense text's.

student: t^ (B, D), teacher: the dense embeddings (B, D), never trained; neither of length 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vse.objective.alignment import cosine_scores, same_image


def distill(
    student: Tensor,
    teacher: Tensor,
    *,
    kind: str,
    reduction: str = "mean",
    image_index: Tensor | None = None,
    temperature: float = 0.1,
) -> Tensor:
    """(B, D), (B, D) -> scalar. The teacher is detached.

    Args:
        kind: cosine: 1 - mean cos(student, teacher). l1, l2: mean over all entries, not normalised.
            relations-kl, relations-huber: see `match_distributions` and `match_distances`.
        reduction: "mean", or "sum": the mean times B.
        image_index: (B,), for relations: texts of one image are not related to each other, since
            the teacher reads the same text for both. None: every text is of an image of its own.
        temperature: of relations-kl.
    """
    student, teacher = student.float(), teacher.detach().float()
    if image_index is None:
        image_index = torch.arange(len(student), device=student.device)
    if kind == "cosine":
        loss = 1 - F.cosine_similarity(student, teacher, dim=-1).mean()
    elif kind == "l1":
        loss = F.l1_loss(student, teacher)
    elif kind == "l2":
        loss = F.mse_loss(student, teacher)
    elif kind == "relations-kl":
        loss = match_distributions(student, teacher, image_index, temperature=temperature)
    elif kind == "relations-huber":
        loss = match_distances(student, teacher, image_index)
    else:
        raise ValueError(f"unknown distillation {kind!r}")
    return loss * len(student) if reduction == "sum" else loss


def distill_image(v: Tensor, target: Tensor) -> Tensor:
    """1 - mean cos(v, target), v (B, D), target (B, D) detached.

    Feature distillation on the image side as well, as CLIP-KD (Yang et al., CVPR 2024) has it for
    both towers. D2S-VSE distils the text alone, so this is an addition to the paper: the target is
    what stage 1 made of the image, or of its dense text.
    """
    return 1 - F.cosine_similarity(v.float(), target.detach().float(), dim=-1).mean()


def match_distributions(
    student: Tensor, teacher: Tensor, image_index: Tensor, *, temperature: float
) -> Tensor:
    """Mean over rows of KL(p || q), where p_i = softmax over j of cos(teacher_i, teacher_j) / T.

    q is the student's. As in SEED (Fang et al., ICLR 2021, eq. 4), the batch in place of its queue.
    """
    masked = same_image(image_index)

    def logs(x: Tensor) -> Tensor:
        # Finite, so that a row without any other image gives two uniform rows and not NaN.
        scores = cosine_scores(x, x) / temperature
        return scores.masked_fill(masked, -1e4).log_softmax(dim=1)

    return F.kl_div(logs(student), logs(teacher), reduction="batchmean", log_target=True)


def match_distances(student: Tensor, teacher: Tensor, image_index: Tensor) -> Tensor:
    """Mean over pairs of Huber(d_ij, d'_ij), distances over their mean, of the unit vectors.

    The distance-wise loss of relational knowledge distillation (Park et al., CVPR 2019, eq. 4-6).
    """
    related = (~same_image(image_index)).float()
    pairs = related.sum().clamp(min=1)

    def distances(x: Tensor) -> Tensor:
        # The square root has no gradient at 0, where two texts agree.
        found = (2 - 2 * cosine_scores(x, x)).clamp(min=1e-6).sqrt() * related
        return found / (found.sum() / pairs).clamp(min=1e-6)

    return F.smooth_l1_loss(distances(student), distances(teacher), reduction="sum") / pairs
