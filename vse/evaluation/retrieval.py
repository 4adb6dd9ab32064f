"""Recall and ranks from embeddings, with numpy only.

Ties count against the model: everything that scores as high as the correct answer is ranked before
it (the worst rank that sorting could give). A model that gives all pairs the same score therefore
ranks every correct answer last: its recall is 0, not 100 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vse.evaluation.tiles import Room, ScoreTiles, Tile
from vse.evaluation.top_k import Nearest, NearestKeeper

CUTS = (1, 5, 10)


class NotFiniteError(ValueError):
    """Embeddings that cannot be ranked."""


@dataclass(frozen=True)
class Ranks:
    """Ranks from 0. i2t: (N,), the best-ranked caption of each image; t2i: (M,), the image of each
    caption.

    If requested, the top hits: `texts` for each image, `images` for each caption.
    """

    i2t: np.ndarray
    t2i: np.ndarray
    texts: Nearest | None = None
    images: Nearest | None = None


def rank(images: np.ndarray, texts: np.ndarray, image_of: np.ndarray, *, keep: int = 0) -> Ranks:
    """Rank in both directions by counting the scores at or above the correct one, without sorting.

    Both directions share one matrix product, computed in tiles: N x M numbers are never in memory.

    Args:
        images: (N, D), texts: (M, D), both normalized float32; the score is the dot product.
        image_of: (M,), the row in `images` of each text's image; every image needs a text.
        keep: number of top hits to return for each query.

    Raises:
        NotFiniteError: an embedding contains NaN or infinity; comparing with NaN would rank it
            first.
        ValueError: an image has no text.
    """
    images, texts = np.asarray(images, np.float32), np.asarray(texts, np.float32)
    if not (_is_finite(images) and _is_finite(texts)):
        raise NotFiniteError("its embeddings contain NaN or infinity")
    if len(np.unique(image_of)) != len(images):
        raise ValueError("every image needs at least one text")
    order = np.argsort(image_of, kind="stable")
    if (np.diff(image_of) < 0).any():
        texts, image_of = texts[order], image_of[order]
    counts = _Counts(len(images), len(texts))
    found = _Found(len(images), len(texts), keep) if keep else None
    for tile in ScoreTiles(images, texts, image_of):
        if found is not None:
            found.add(tile, order)
        counts.add(tile)
    # Back to the original order.
    t2i = np.empty_like(counts.t2i)
    t2i[order] = counts.t2i
    if found is None:
        return Ranks(counts.i2t, t2i)
    return Ranks(counts.i2t, t2i, found.by_image.result(), found.by_text.result())


class _Counts:
    """Counts the wrong answers that score at least as high as the correct one, tile by tile."""

    def __init__(self, images: int, texts: int) -> None:
        self.i2t, self.t2i = np.zeros(images, np.int64), np.zeros(texts, np.int64)
        self._best = np.full(images, -np.inf, np.float32)
        self._own = np.empty(texts, np.float32)
        self._room = Room(np.bool_)

    def add(self, tile: Tile) -> None:
        """Add a tile; its matching pairs are overwritten."""
        rows, columns = tile.own
        if len(rows):
            # Read from the tile: the same score computed in another way differs by rounding.
            self._own[tile.texts] = tile.scores[rows, columns]
            np.maximum.at(self._best, rows + tile.images.start, self._own[tile.texts])
            # Correct answers do not count.
            tile.scores[rows, columns] = -np.inf
        above = self._room.take(*tile.scores.shape)
        np.greater_equal(tile.scores, self._best[tile.images, None], out=above)
        self.i2t[tile.images] += above.view(np.uint8).sum(axis=1, dtype=np.uint32)
        np.greater_equal(tile.scores, self._own[tile.texts], out=above)
        # Bytes are the fastest to add, and 255 of them cannot overflow.
        for start in range(0, len(above), 255):
            part = above[start : start + 255].view(np.uint8)
            self.t2i[tile.texts] += part.sum(axis=0, dtype=np.uint8)


class _Found:
    """The top hits of every query in both directions, tile by tile."""

    def __init__(self, images: int, texts: int, keep: int) -> None:
        self.by_image = NearestKeeper(images, keep=keep, candidates=texts)
        self.by_text = NearestKeeper(texts, keep=keep, candidates=images)

    def add(self, tile: Tile, order: np.ndarray) -> None:
        """order (M,): the row in the caller's texts of each text in the tiles."""
        rows, columns = tile.own
        texts, images = order[tile.texts], np.arange(tile.images.start, tile.images.stop)
        self.by_image.add(tile.images, tile.scores, texts, (rows, columns))
        self.by_text.add(texts, tile.scores.T.copy(), images, (columns, rows))


def _is_finite(rows: np.ndarray) -> bool:
    """Without allocating a mask of the same size."""
    return bool(np.isfinite(rows.min()) and np.isfinite(rows.max()))


def recalls(ranks: Ranks) -> dict[str, float]:
    """R@1, R@5, R@10 in both directions in percent, their sum, median and mean rank (from 1)."""
    out: dict[str, float] = {}
    for way, found in (("i2t", ranks.i2t), ("t2i", ranks.t2i)):
        for cut in CUTS:
            out[f"{way}_r{cut}"] = 100.0 * float((found < cut).mean())
    out["rsum"] = sum(out.values())
    for way, found in (("i2t", ranks.i2t), ("t2i", ranks.t2i)):
        out[f"{way}_median_rank"] = float(np.median(found)) + 1.0
        out[f"{way}_mean_rank"] = float(found.mean()) + 1.0
    return out


@dataclass(frozen=True)
class Evaluation:
    """images (N, D) and texts (M, D) of length 1; image_of (M,): each text's own image."""

    metrics: dict[str, float]
    ranks: Ranks
    images: np.ndarray
    texts: np.ndarray
    image_of: np.ndarray

    def scores(self, texts: Sequence[int]) -> np.ndarray:
        """Cosines of some texts with all images, (len(texts), N)."""
        return self.texts[np.asarray(texts)] @ self.images.T


def measure(
    images: np.ndarray, texts: np.ndarray, image_of: np.ndarray, *, keep: int = 0
) -> Evaluation:
    """Rank embeddings in both directions; see `vse.evaluation.retrieval` for ties and `keep`."""
    ranks = rank(images, texts, image_of, keep=keep)
    return Evaluation(recalls(ranks), ranks, images, texts, image_of)
