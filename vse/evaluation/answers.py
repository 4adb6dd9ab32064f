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

    `queries` and `answers` count those of the ground truth: what is not here is not measured.
    """

    places: list[np.ndarray]
    queries: int
    answers: int

    @property
    def found(self) -> int:
        """How many right answers are here."""
        return sum(map(len, self.places))

    @property
    def complete(self) -> bool:
        """Whether nothing of the ground truth is missing here."""
        return len(self.places) == self.queries and self.found == self.answers


def find_answers(
    images: np.ndarray, texts: np.ndarray, ids: Ids, truth: GroundTruth
) -> dict[str, Answers] | None:
    """Both directions, i2t and t2i; None if one has no query here.

    images (N, D) and texts (M, D) are of length 1. A ranking's items are all images or all texts.
    """
    image_rows = {name: row for row, name in enumerate(ids.images)}
    text_rows = {name: row for row, name in enumerate(ids.texts)}
    ways = {
        "i2t": _find(images, texts, image_rows, text_rows, truth.texts),
        "t2i": _find(texts, images, text_rows, image_rows, truth.images),
    }
    return ways if all(way.places for way in ways.values()) else None


def count_answers(ways: Mapping[str, Answers]) -> dict[str, Any]:
    """What was measured and what is missing, for the results."""
    counts: dict[str, Any] = {"complete": all(way.complete for way in ways.values())}
    for name, way in ways.items():
        counts[f"{name}_queries"] = len(way.places)
        counts[f"{name}_queries_missing"] = way.queries - len(way.places)
        counts[f"{name}_answers"] = way.found
        counts[f"{name}_answers_missing"] = way.answers - way.found
    return counts


def _find(
    queries: np.ndarray,
    items: np.ndarray,
    query_rows: Mapping[str, int],
    item_rows: Mapping[str, int],
    right: Mapping[str, tuple[str, ...]],
) -> Answers:
    rows, answers = [], []
    for name, names in right.items():
        mine = [item_rows[other] for other in names if other in item_rows]
        if name in query_rows and mine:
            rows.append(query_rows[name])
            answers.append(np.array(mine))
    places = find_places(queries[np.array(rows, dtype=np.int64)], items, answers)
    return Answers(places, len(right), sum(map(len, right.values())))
