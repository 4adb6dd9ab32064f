"""The losses of both stages: alignment of images and texts, distillation from dense to sparse."""

from vse.objective.alignment import (
    InfoNCE,
    SigLIP,
    collapsed_hinge,
    collapsed_infonce,
    cosine_scores,
    hinge,
    same_image,
    texts_per_image,
)
from vse.objective.distillation import distill, distill_image

__all__ = [
    "InfoNCE",
    "SigLIP",
    "collapsed_hinge",
    "collapsed_infonce",
    "cosine_scores",
    "distill",
    "distill_image",
    "hinge",
    "same_image",
    "texts_per_image",
]
