"""Recall and ranks from embeddings; numpy alone.

Ties count against the model: everything that scores as high as the right answer is ranked before
it (the rank is the worst that a sort could give). A model that gives all pairs one score therefore
puts every right answer last: recall 0, below chance, and never 100 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

CUTS = (1, 5, 10)
BLOCK_BYTES = 1 << 28


class NotFiniteError(ValueError):
    """Embeddings from which no rank can be told."""


@dataclass(frozen=True)
class Ranks:
    """0-based ranks. i2t: (N,) of an image's best own caption; t2i: (M,) of a caption's image."""

    i2t: np.ndarray
    t2i: np.ndarray


def rank(images: np.ndarray, texts: np.ndarray, image_of: np.ndarray) -> Ranks:
    """Rank by counting the scores at or above the right one, in blocks, without sorting.

    Args:
        images: (N, D), texts: (M, D), both of length 1, float32; the score is the dot product.
        image_of: (M,) row in `images` of each text's own image; every image needs a text.

    Raises:
        NotFiniteError: an embedding holds NaN or infinity; comparing with NaN would rank it first.
        ValueError: an image without a text.
    """
    if not (np.isfinite(images).all() and np.isfinite(texts).all()):
        raise NotFiniteError("its embeddings hold NaN or infinity")
    if len(np.unique(image_of)) != len(images):
        raise ValueError("every image needs at least one text")
    return Ranks(_rank_images(images, texts, image_of), _rank_texts(images, texts, image_of))


def _rank_texts(images: np.ndarray, texts: np.ndarray, image_of: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(texts), dtype=np.int64)
    for block in _blocks(len(texts), len(images)):
        scores = texts[block] @ images.T
        # Read from the same product: the same score computed otherwise differs by rounding.
        own = np.take_along_axis(scores, image_of[block, None], axis=1)
        ranks[block] = (scores >= own).sum(axis=1) - 1
    return ranks


def _rank_images(images: np.ndarray, texts: np.ndarray, image_of: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(images), dtype=np.int64)
    order = np.argsort(image_of, kind="stable")
    starts = np.searchsorted(image_of[order], np.arange(len(images) + 1))
    for block in _blocks(len(images), len(texts)):
        scores = images[block] @ texts.T
        own_columns = order[starts[block.start] : starts[block.stop]]
        rows = image_of[own_columns] - block.start
        own = scores[rows, own_columns]
        best = np.full(len(scores), -np.inf, dtype=scores.dtype)
        np.maximum.at(best, rows, own)
        level = (scores >= best[:, None]).sum(axis=1)
        # The image's own captions at its best score are right answers, not rivals.
        mine = np.bincount(rows[own >= best[rows]], minlength=len(scores))
        ranks[block] = level - mine
    return ranks


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK_BYTES // (4 * max(columns, 1)))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def recalls(ranks: Ranks) -> dict[str, float]:
    """R@1, R@5, R@10 both ways in percent, their sum, median and mean rank (counted from 1)."""
    out: dict[str, float] = {}
    for way, found in (("i2t", ranks.i2t), ("t2i", ranks.t2i)):
        for cut in CUTS:
            out[f"{way}_r{cut}"] = 100.0 * float((found < cut).mean())
    out["rsum"] = sum(out.values())
    for way, found in (("i2t", ranks.i2t), ("t2i", ranks.t2i)):
        out[f"{way}_median_rank"] = float(np.median(found)) + 1.0
        out[f"{way}_mean_rank"] = float(found.mean()) + 1.0
    return out
