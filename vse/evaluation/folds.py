"""A split in folds, each ranked alone: COCO's "1K" is the mean of five folds of 1,000 images."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np

from vse.evaluation.retrieval import rank, recalls

COCO_IMAGES, COCO_FOLDS = 5000, 5


@dataclass(frozen=True)
class Folds:
    """`each` fold's recalls, their mean and their deviation (that of a sample, n - 1 below)."""

    images: tuple[int, ...]
    captions: tuple[int, ...]
    each: tuple[dict[str, float], ...]

    @property
    def mean(self) -> dict[str, float]:
        return {name: statistics.fmean(values) for name, values in self._by_name().items()}

    @property
    def deviation(self) -> dict[str, float]:
        return {name: statistics.stdev(values) for name, values in self._by_name().items()}

    def _by_name(self) -> dict[str, list[float]]:
        return {name: [fold[name] for fold in self.each] for name in self.each[0]}


def choose_folds(images: int) -> int | None:
    """The number of folds that the field takes for a split of this size: five for COCO's 5,000."""
    return COCO_FOLDS if images == COCO_IMAGES else None


def cut_folds(images: int, count: int) -> list[slice]:
    """Consecutive images in `count` folds whose sizes differ by one at most.

    Raises:
        ValueError: fewer than two folds, or fewer images than folds.
    """
    if not 2 <= count <= images:
        raise ValueError(f"{images} images cannot be cut into {count} folds")
    ends = [images * number // count for number in range(count + 1)]
    return [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False)]


def measure_folds(
    images: np.ndarray, texts: np.ndarray, image_of: np.ndarray, *, count: int
) -> Folds:
    """Rank each fold of the images with its own texts; arguments as of `retrieval.rank`."""
    folds = cut_folds(len(images), count)
    each, captions = [], []
    for fold in folds:
        mine = (image_of >= fold.start) & (image_of < fold.stop)
        each.append(recalls(rank(images[fold], texts[mine], image_of[mine] - fold.start)))
        captions.append(int(mine.sum()))
    return Folds(tuple(f.stop - f.start for f in folds), tuple(captions), tuple(each))
