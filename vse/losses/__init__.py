"""The losses of both stages: alignment of images and texts, distillation from dense to sparse."""

from vse.losses.alignment import (
    InfoNCE,
    SigLIP,
    collapsed_hinge,
    collapsed_infonce,
    cosine_scores,
    hinge,
    same_image,
)
from vse.losses.distillation import distill

__all__ = [
    "InfoNCE",
    "SigLIP",
    "collapsed_hinge",
    "collapsed_infonce",
    "cosine_scores",
    "distill",
    "hinge",
    "same_image",
]
