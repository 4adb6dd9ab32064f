"""The queries that fail: whose right answer is not found first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vse.evaluation.top_k import Nearest


@dataclass(frozen=True)
class Failure:
    """A query, the 0-based rank of its best right answer, and the rows and scores found first."""

    query: int
    rank: int
    found: tuple[int, ...]
    scores: tuple[float, ...]


def find_failures(ranks: np.ndarray, nearest: Nearest, *, limit: int, top: int) -> list[Failure]:
    """The worst `limit` queries, worst first, with their first `top` answers.

    ranks (Q,) and nearest of one direction of `vse.evaluation.retrieval.Ranks`. Queries of the
    same rank stay in order.
    """
    failed = np.flatnonzero(ranks > 0)
    worst = failed[np.argsort(-ranks[failed], kind="stable")][:limit]
    return [
        Failure(
            query=int(query),
            rank=int(ranks[query]),
            found=tuple(nearest.ids[query, :top].tolist()),
            scores=tuple(nearest.scores[query, :top].tolist()),
        )
        for query in worst
    ]
