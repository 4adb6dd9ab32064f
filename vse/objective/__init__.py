"""The losses of both stages: alignment of images and texts, distillation from dense to sparse."""

from vse.objective.alignment import (
    Alignment,
    InfoNCE,
    SigLIP,
    collapsed_hinge,
    collapsed_infonce,
    cosine_scores,
    hinge,
    texts_per_image,
)
from vse.objective.distillation import distill, distill_image

__all__ = [
    "Alignment",
    "InfoNCE",
    "SigLIP",
    "collapsed_hinge",
    "collapsed_infonce",
    "cosine_scores",
    "distill",
    "distill_image",
    "hinge",
    "texts_per_image",
]
