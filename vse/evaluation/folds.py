"""A split in folds that are ranked separately: COCO's "1K" is the mean of five folds of 1,000
images."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from vse.evaluation.retrieval import rank, recalls

COCO_IMAGES, COCO_FOLDS = 5000, 5


def cut_folds(images: int, count: int) -> list[slice]:
    """Split consecutive images into `count` folds whose sizes differ by at most one.

    Raises:
        ValueError: fewer than two folds, or fewer images than folds.
    """
    if not 2 <= count <= images:
        raise ValueError(f"{images} images cannot be split into {count} folds")
    ends = [images * number // count for number in range(count + 1)]
    return [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False)]


def measure_folds(
    images: np.ndarray, texts: np.ndarray, image_of: np.ndarray, *, count: int
) -> dict[str, Any]:
    """Rank each fold of the images with its own texts; arguments as for `retrieval.rank`.

    Returns the recalls of `each` fold with its numbers of images and captions, their mean, and
    their sample standard deviation (n - 1).
    """
    folds = cut_folds(len(images), count)
    each, captions = [], []
    for fold in folds:
        mine = (image_of >= fold.start) & (image_of < fold.stop)
        each.append(recalls(rank(images[fold], texts[mine], image_of[mine] - fold.start)))
        captions.append(int(mine.sum()))
    by_name = {name: [fold[name] for fold in each] for name in each[0]}
    return {
        "count": count,
        "images": [fold.stop - fold.start for fold in folds],
        "captions": captions,
        "mean": {name: statistics.fmean(values) for name, values in by_name.items()},
        "deviation": {name: statistics.stdev(values) for name, values in by_name.items()},
        "each": each,
    }
