"""Measures where a query has several right answers: mAP@R, R-Precision, R@K; numpy alone.

They are functions of a query's *places*: the 0-based places of its R right answers in the ranking
of all items, ascending. As everywhere, wrong answers of an equal score stand before right ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

# Scores in memory at a time.
STRIP_CELLS = 1 << 22


def find_places(
    queries: np.ndarray, items: np.ndarray, right: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The places of each query's right answers.

    Args:
        queries: (Q, D), items: (M, D), both of length 1; the score is the dot product.
        right: for each query the rows of its right answers in `items`, at least one, each once.
    """
    step = max(1, STRIP_CELLS // len(items))
    places = []
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ items.T
        places += [
            find_in_row(row, mine)
            for row, mine in zip(scores, right[start : start + step], strict=True)
        ]
    return places


def find_in_row(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The places (R,) of the items `right` (R,) by scores (M,), which are overwritten."""
    own = np.sort(scores[right])[::-1]
    scores[right] = -np.inf
    rivals = np.sort(scores[scores >= own[-1]])
    before = len(rivals) - np.searchsorted(rivals, own, side="left")
    return before + np.arange(len(own))


def recall_at(places: Iterable[np.ndarray], cut: int) -> float:
    """R@K in percent: the share of queries with a right answer among the first K."""
    return 100.0 * float(np.mean([one[0] < cut for one in places]))


def r_precision(places: np.ndarray) -> float:
    """The share of right answers among the first R."""
    return float((places < len(places)).mean())


def average_precision_at_r(places: np.ndarray) -> float:
    """AP@R: the mean over r = 1..R of the precision of the first r where the r-th is right, else 0.

    Source: Musgrave et al., A Metric Learning Reality Check, 2020; as ECCV Caption uses it.
    """
    found = places[places < len(places)]
    precisions = (np.arange(len(found)) + 1) / (found + 1)
    return float(precisions.sum() / len(places))
