"""Where the several right answers of a query stand, for queries and answers known by their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vse.evaluation.ground_truth import GroundTruth
from vse.evaluation.positives import find_places


@dataclass(frozen=True)
class Ids:
    """The id of each image (N,) and of each text (M,), in the order of the embeddings."""

    images: Sequence[str]
    texts: Sequence[str]


@dataclass(frozen=True)
class Answers:
    """The places of the right answers of every query that is here, as in `positives`.

    A query that is not here, or none of whose answers is, is not measured. An answer that is not
    here counts as not found: it stands behind all items. Of the ground truth's right answers,
    `here` are here and `outside` are no items of the protocol, so nobody has them.
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
    """Both directions, i2t and t2i; None if one has no query here.

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
    """What was measured and what is missing, for the results."""
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
