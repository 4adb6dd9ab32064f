"""Histograms count every value once, and stay in their frame."""

import numpy as np
import pytest

from pipelines.pages.review.histograms import HEIGHT, WIDTH, draw_counts, draw_shares


def test_histograms_count_every_value_once() -> None:
    values = np.array([3, 3, 4, 40, 41, 90, np.nan])
    histogram = draw_counts("Words", values, unit="words")
    assert histogram is not None
    labels = ["0 to 5 words: 3", "40 to 45 words: 2", "90 to 95 words: 1"]
    assert [bar.label for bar in histogram.bars] == labels
    assert [bar.x / WIDTH for bar in histogram.bars] == pytest.approx([0, 8 / 19, 18 / 19])
    assert histogram.summary == "median 22 words, from 3 to 90"
    for bar in histogram.bars:
        assert bar.x >= 0 and bar.x + bar.width <= WIDTH + 1e-6
        assert bar.y >= 0 and bar.y + bar.height == pytest.approx(HEIGHT)
    assert max(bar.height for bar in histogram.bars) == HEIGHT


@pytest.mark.parametrize(
    "values", [[0.0], [0.3, 0.3], [0.0, 0.999], [0.1, 0.2, 0.30000000000000004]]
)
def test_histograms_of_shares(values: list[float]) -> None:
    histogram = draw_shares("Repetition", np.array(values))
    assert histogram is not None
    assert sum(int(bar.label.rpartition(": ")[2]) for bar in histogram.bars) == len(values)
    assert 0 <= histogram.median_x <= WIDTH
    assert draw_shares("Repetition", np.array([np.nan])) is None
