"""Measures for queries with several correct answers: mAP@R, R-Precision, R@K; with numpy only.

They are functions of a query's *places*: the positions, from 0 and ascending, of its R correct
answers in the ranking of all items. As everywhere, wrong answers with an equal score come before
correct ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vse.evaluation.ground_truth import GroundTruth
from vse.evaluation.retrieval import CUTS

# Scores in memory at a time.
STRIP_CELLS = 1 << 22


def find_places(
    queries: np.ndarray, items: np.ndarray, right: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The places of the correct answers of each query.

    Args:
        queries: (Q, D), items: (M, D), both normalized; the score is the dot product.
        right: for each query, the rows of its correct answers in `items`: at least one, no
            duplicates.
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
    """R@K in percent: the share of queries with a correct answer among the first K."""
    return 100.0 * float(np.mean([one[0] < cut for one in places]))


def r_precision(places: np.ndarray) -> float:
    """The share of correct answers among the first R."""
    return float((places < len(places)).mean())


def average_precision_at_r(places: np.ndarray) -> float:
    """AP@R: the mean over r = 1..R of the precision of the first r where the r-th is right, else 0.

    Source: Musgrave et al., A Metric Learning Reality Check, 2020; as ECCV Caption uses it.
    """
    found = places[places < len(places)]
    precisions = (np.arange(len(found)) + 1) / (found + 1)
    return float(precisions.sum() / len(places))


@dataclass(frozen=True)
class Ids:
    """The id of each image (N,) and of each text (M,), in the order of the embeddings."""

    images: Sequence[str]
    texts: Sequence[str]


@dataclass(frozen=True)
class Answers:
    """The places of the correct answers of every available query.

    A query is measured if it and at least one of its answers are available. A missing answer counts
    as not found: it is placed after all items. Of the correct answers in the ground truth, `here`
    are available, and `outside` are not part of the protocol, so they are missing for everyone.
    """

    places: list[np.ndarray]
    here: int
    queries: int
    answers: int
    outside: int

    @property
    def queries_missing(self) -> int:
        return self.queries - len(self.places)

    @property
    def answers_missing(self) -> int:
        return self.answers - self.here - self.outside


def find_answers(
    images: np.ndarray, texts: np.ndarray, ids: Ids, truth: GroundTruth
) -> dict[str, Answers] | None:
    """Both directions, i2t and t2i; None if one of them has no query.

    images (N, D) and texts (M, D) are of length 1. A ranking's items are all images or all texts.
    """
    image_rows = {name: row for row, name in enumerate(ids.images)}
    text_rows = {name: row for row, name in enumerate(ids.texts)}
    ways = {
        "i2t": _find(images, texts, image_rows, text_rows, truth.texts, truth.outside),
        "t2i": _find(texts, images, text_rows, image_rows, truth.images, frozenset()),
    }
    return ways if all(way.places for way in ways.values()) else None


def count_answers(ways: Mapping[str, Answers]) -> dict[str, Any]:
    """What was measured and what is missing, for the results file."""
    missing = sum(way.queries_missing + way.answers_missing for way in ways.values())
    counts: dict[str, Any] = {"complete": missing == 0}
    for name, way in ways.items():
        counts[f"{name}_queries"] = len(way.places)
        counts[f"{name}_queries_missing"] = way.queries_missing
        counts[f"{name}_answers"] = way.here
        counts[f"{name}_answers_missing"] = way.answers_missing
    return counts


def _find(
    queries: np.ndarray,
    items: np.ndarray,
    query_rows: Mapping[str, int],
    item_rows: Mapping[str, int],
    right: Mapping[str, tuple[str, ...]],
    outside: frozenset[str],
) -> Answers:
    rows, answers, sizes = [], [], []
    for name, names in right.items():
        mine = [item_rows[other] for other in names if other in item_rows]
        if name in query_rows and mine:
            rows.append(query_rows[name])
            answers.append(np.array(mine))
            sizes.append(len(names))
    found = find_places(queries[np.array(rows, dtype=np.int64)], items, answers)
    end = len(items) + max(sizes, default=0)
    places = [
        np.concatenate([one, np.arange(end, end + size - len(one))])
        for one, size in zip(found, sizes, strict=True)
    ]
    named = [other for names in right.values() for other in names]
    beyond = sum(other in outside and other not in item_rows for other in named)
    return Answers(places, sum(map(len, found)), len(right), len(named), beyond)


def measure_eccv(
    images: np.ndarray, texts: np.ndarray, ids: Ids, truth: GroundTruth
) -> dict[str, Any] | None:
    """ECCV Caption (Chun et al., ECCV 2022): COCO's test split with the correct answers that it
    lacks.

    mAP@R, R-Precision and R@1 in both directions in percent, and counts; None without a query.

    images (N, D) and texts (M, D) are of length 1; all of them are ranked, whatever the query.
    """
    ways = find_answers(images, texts, ids, truth)
    if ways is None:
        return None
    found: dict[str, Any] = {}
    for name, way in ways.items():
        precisions = [average_precision_at_r(places) for places in way.places]
        found[f"{name}_map_at_r"] = 100.0 * float(np.mean(precisions))
        found[f"{name}_r_precision"] = 100.0 * float(np.mean([*map(r_precision, way.places)]))
        found[f"{name}_r1"] = recall_at(way.places, 1)
    return found | count_answers(ways)


def measure_cxc(
    images: np.ndarray, texts: np.ndarray, ids: Ids, truth: GroundTruth
) -> dict[str, Any] | None:
    """CxC, Crisscrossed Captions (Parekh et al., EACL 2021): COCO's test split with new judgments.

    R@1, R@5, R@10 in both directions in percent, their sum, and counts; None without a query.

    images (N, D) and texts (M, D) are of length 1; all of them are ranked, whatever the query.
    """
    ways = find_answers(images, texts, ids, truth)
    if ways is None:
        return None
    found: dict[str, Any] = {
        f"{name}_r{cut}": recall_at(way.places, cut) for name, way in ways.items() for cut in CUTS
    }
    return found | {"rsum": sum(found.values())} | count_answers(ways)
