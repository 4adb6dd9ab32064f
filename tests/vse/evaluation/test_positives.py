"""Measures with several right answers, on matrices written by hand and against a naive twin."""

import numpy as np
import pytest

from vse.evaluation import positives
from vse.evaluation.positives import (
    average_precision_at_r,
    find_in_row,
    find_places,
    r_precision,
    recall_at,
)

# One query a row; right answers follow.
SCORES = np.array(
    [
        [9, 8, 7, 6, 5, 4, 3, 2],
        [5, 5, 5, 5, 5, 5, 5, 5],
        [1, 9, 9, 3, 3, 8, 0, 3],
        [0, 1, 2, 3, 4, 5, 6, 7],
    ],
    dtype=np.float32,
)
RIGHT = [[0, 2, 3], [6, 7], [1, 3, 4], [0]]
# All equal: the six wrong ones first. Third row: 9 of item 2 before that of item 1, then 8, then
# the 3 of item 7 before those of items 3 and 4.
PLACES = [[0, 2, 3], [6, 7], [1, 4, 5], [7]]


def test_by_hand() -> None:
    found = [
        find_in_row(row, np.array(right)) for row, right in zip(SCORES.copy(), RIGHT, strict=True)
    ]
    assert [places.tolist() for places in found] == PLACES
    assert [r_precision(places) for places in found] == pytest.approx([2 / 3, 0, 1 / 3, 0])
    average = [average_precision_at_r(places) for places in found]
    assert average == pytest.approx([(1 + 2 / 3) / 3, 0, (1 / 2) / 3, 0])
    assert [recall_at(found, cut) for cut in (1, 2, 7, 8)] == [25.0, 50.0, 75.0, 100.0]


def naive_places(row: np.ndarray, right: list[int]) -> list[int]:
    order = sorted(range(len(row)), key=lambda item: (-row[item], item in right))
    return [place for place, item in enumerate(order) if item in right]


@pytest.mark.parametrize("cells", [1, 40, 1 << 22])
def test_equals_the_naive_twin(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr(positives, "STRIP_CELLS", cells)
    rng = np.random.default_rng(0)
    for _ in range(10):
        queries = rng.integers(-2, 3, (9, 3)).astype(np.float32)
        items = rng.integers(-2, 3, (17, 3)).astype(np.float32)
        right = [rng.choice(17, size=rng.integers(1, 6), replace=False) for _ in queries]
        found = find_places(queries, items, right)
        for row, mine, places in zip(queries @ items.T, right, found, strict=True):
            assert places.tolist() == naive_places(row, mine.tolist())


def test_a_perfect_ranking_is_all_right() -> None:
    places = np.arange(4)
    assert average_precision_at_r(places) == r_precision(places) == 1.0
