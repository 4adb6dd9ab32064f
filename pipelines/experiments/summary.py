"""Figures of many cells: mean and deviation over the seeds, differences, and what is kept."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

RULE = (
    "kept if the mean gain in validation rSum is larger than the pooled deviation, "
    "sqrt((sd_idea^2 + sd_base^2) / 2) over the seeds; fixed before the first run"
)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation (0 for one value)."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "sd": deviation}


def compare(own: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, float] | None:
    """Mean and deviation of the differences, seed by seed; None without a seed in common."""
    gaps = [value - reference[seed] for seed, value in own.items() if seed in reference]
    return spread(gaps) if gaps else None


def decide(own: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Whether an idea is kept, by `RULE`; None with fewer than two seeds."""
    gain = statistics.fmean(own) - statistics.fmean(reference)
    if min(len(own), len(reference)) < 2:
        return {"gain": gain, "pooled": None, "kept": None}
    pooled = math.sqrt((statistics.variance(own) + statistics.variance(reference)) / 2)
    return {"gain": gain, "pooled": pooled, "kept": gain > pooled}
