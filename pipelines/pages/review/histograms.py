"""Histograms as bars, in the units of a chart of WIDTH x HEIGHT."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pipelines.pages.review.view import Bar, Histogram, LabelCount

WIDTH, HEIGHT = 320.0, 90.0
_GAP = 1.0
_BINS = 24


def draw_counts(title: str, values: np.ndarray[Any, Any], *, unit: str) -> Histogram | None:
    """A histogram of integers (words, tokens) without NaN. None if nothing is left."""
    found = values[np.isfinite(values)]
    if not len(found):
        return None
    step = _choose_step(found.min(), found.max(), smallest=1.0)

    def show(value: float) -> str:
        # A median can lie between two counts.
        return f"{value:,.1f}".removesuffix(".0")

    return _draw(title, found, step=step, shown=show, unit=f" {unit}")


def draw_shares(title: str, values: np.ndarray[Any, Any]) -> Histogram | None:
    """A histogram of shares in [0, 1], labeled in percent. None if there are none."""
    found = values[np.isfinite(values)]
    if not len(found):
        return None
    step = _choose_step(found.min(), found.max(), smallest=0.005)
    return _draw(
        title,
        found,
        step=step,
        shown=lambda value: f"{100 * value:.3g}\N{NO-BREAK SPACE}%",
        unit="",
    )


def draw_scores(title: str, values: np.ndarray[Any, Any]) -> Histogram | None:
    """A histogram of scores of any range. None if there are none."""
    found = values[np.isfinite(values)]
    if not len(found):
        return None
    step = _choose_step(found.min(), found.max(), smallest=1e-6)
    return _draw(title, found, step=step, shown=lambda value: f"{value:.3g}", unit="")


def count_labels(labels: Iterable[str], *, most: int = 12) -> tuple[LabelCount, ...]:
    """The most frequent labels with their counts."""
    counts = Counter(labels).most_common(most)
    return tuple(LabelCount(label, count, count / counts[0][1]) for label, count in counts)


def _choose_step(low: float, high: float, *, smallest: float) -> float:
    """The smallest of 1, 2, 5, 10, 20 ... times a power of ten that gives at most _BINS bins."""
    least = max((high - low) / _BINS, smallest)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    return float(step)


def _draw(
    title: str,
    values: np.ndarray[Any, Any],
    *,
    step: float,
    shown: Callable[[float], str],
    unit: str,
) -> Histogram:
    start = math.floor(values.min() / step)
    places = np.floor(values / step + 1e-9).astype(int) - start
    counts = np.bincount(places)
    width = WIDTH / len(counts)
    top = counts.max()
    bars = []
    for place, count in enumerate(counts.tolist()):
        if not count:
            continue
        # A single row among thousands must stay visible.
        height = max(HEIGHT * count / top, 1.5)
        low = (start + place) * step
        label = f"{shown(low)} to {shown(low + step)}{unit}: {count:,}"
        bars.append(Bar(place * width, HEIGHT - height, max(width - _GAP, 1), height, label))
    median = float(np.median(values))
    return Histogram(
        title=title,
        summary=f"median {shown(median)}{unit}, from {shown(values.min())} "
        f"to {shown(values.max())}",
        bars=tuple(bars),
        median_x=min(max((median / step - start) * width, 0.0), WIDTH),
        low=shown(start * step),
        high=shown((start + len(counts)) * step),
    )
