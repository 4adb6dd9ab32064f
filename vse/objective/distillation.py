"""The distillation losses of stage 2, from the dense text's embedding to the sparse text's.

student: t^ (B, D), teacher: the dense embeddings (B, D), never trained; neither of length 1.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def distill(student: Tensor, teacher: Tensor, *, kind: str, reduction: str = "mean") -> Tensor:
    """(B, D), (B, D) -> scalar. The teacher is detached.

    Args:
        kind: cosine: 1 - mean cos(student, teacher). l1, l2: mean over all entries, without
            normalization.
        reduction: "mean", or "sum": the mean times B.
    """
    student, teacher = student.float(), teacher.detach().float()
    if kind == "cosine":
        loss = 1 - F.cosine_similarity(student, teacher, dim=-1).mean()
    elif kind == "l1":
        loss = F.l1_loss(student, teacher)
    elif kind == "l2":
        loss = F.mse_loss(student, teacher)
    else:
        raise ValueError(f"unknown distillation {kind!r}")
    return loss * len(student) if reduction == "sum" else loss


def distill_image(v: Tensor, target: Tensor) -> Tensor:
    """1 - mean cos(v, target), v (B, D), target (B, D) detached.

    Feature distillation on the image side, as in CLIP-KD (Yang et al., CVPR 2024) for both towers.
    D2S-VSE only distills the text, so this is an addition to the paper. The target is stage 1's
    embedding of the image or of its dense text.
    """
    return 1 - F.cosine_similarity(v.float(), target.detach().float(), dim=-1).mean()
