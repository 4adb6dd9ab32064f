"""Exact nearest-neighbor search in an index, block by block in bounded memory; numpy only.

A score is the dot product of the float32 vectors, summed in float64, so that it does not depend on
how the rows are cut into blocks. Higher scores come first; among equal scores, the earlier row
does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Unit roundoff of float32: a sum of D products is wrong by at most D times it, times the lengths.
_ROUNDOFF = 2.0**-24
_QUERIES_AT_ONCE = 256
# Pairs whose products are summed at once: 16 MB at 512 values.
_PAIRS_AT_ONCE = 4096


@dataclass(frozen=True)
class NearestRows:
    """rows and scores (Q, K), best first; K is `top`, or the size of a smaller index."""

    rows: np.ndarray
    scores: np.ndarray


def find_nearest(
    blocks: Iterable[tuple[int, np.ndarray]], queries: np.ndarray, *, top: int
) -> NearestRows:
    """The `top` rows of each query.

    A float32 product finds candidates, with a margin for rounding; only those are rescored in
    float64.

    Args:
        blocks: (first row, vectors (n, D) float32), in order.
        queries: (Q, D) float32.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    best = _Best(len(queries), top)
    longest_query = _longest(queries)
    for start, block in blocks:
        margin = block.shape[1] * _ROUNDOFF * longest_query * _longest(block)
        for first in range(0, len(queries), _QUERIES_AT_ONCE):
            part = queries[first : first + _QUERIES_AT_ONCE]
            approximate = part @ block.T  # (q, n)
            floors = _floors(approximate, best.worst(first, len(part)), top, margin)
            query, row = np.nonzero(approximate >= floors[:, None])
            scores = score_pairs(part, block, query, row)
            best.add(first + query, start + row, scores)
    return best.hits()


def score_pairs(
    queries: np.ndarray, vectors: np.ndarray, query: np.ndarray, row: np.ndarray
) -> np.ndarray:
    """The scores of pairs (queries[query[i]], vectors[row[i]]), (P,) float64."""
    scores = np.empty(len(query), dtype=np.float64)
    for start in range(0, len(query), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        products = queries[query[part]].astype(np.float64) * vectors[row[part]]
        # Along contiguous rows: the order of summation only depends on D.
        scores[part] = products.sum(axis=1)
    return scores


class _Best:
    """The best rows so far, per query: (Q, K), unused places holding -inf."""

    def __init__(self, queries: int, top: int) -> None:
        self._scores = np.full((queries, top), -np.inf)
        self._rows = np.full((queries, top), np.iinfo(np.int64).max, dtype=np.int64)

    def worst(self, first: int, count: int) -> np.ndarray:
        """The last place's score of some queries."""
        return self._scores[first : first + count, -1]

    def add(self, query: np.ndarray, row: np.ndarray, scores: np.ndarray) -> None:
        """Insert rows that are better; `query` must be ascending."""
        top = self._scores.shape[1]
        for number in np.unique(query):
            span = slice(*np.searchsorted(query, [number, number + 1]))
            every = np.concatenate([self._scores[number], scores[span]])
            rows = np.concatenate([self._rows[number], row[span]])
            order = np.lexsort((rows, -every))[:top]
            self._scores[number], self._rows[number] = every[order], rows[order]

    def hits(self) -> NearestRows:
        used = int(np.isfinite(self._scores[:1]).sum()) if len(self._scores) else 0
        return NearestRows(self._rows[:, :used], self._scores[:, :used])


def _floors(approximate: np.ndarray, worst: np.ndarray, top: int, margin: float) -> np.ndarray:
    """(q,) thresholds below which no row of the block can be among the best."""
    floors = worst - margin
    if approximate.shape[1] > top:
        place = approximate.shape[1] - top
        least = np.partition(approximate, place, axis=1)[:, place]
        floors = np.maximum(floors, least - 2 * margin)
    return floors


def _longest(vectors: np.ndarray) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max(initial=0.0)))
