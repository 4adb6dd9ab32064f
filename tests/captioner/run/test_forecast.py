"""What a run will take, from a trial: against scripted engines whose true end is known."""

import heapq
import random
from collections.abc import Callable

import pytest

from captioner.run.forecast import TimedText, forecast_seconds

Draw = Callable[[random.Random, int], float]


def simulate(draw: random.Random, latency: Draw, *, window: int, count: int) -> list[TimedText]:
    """Images through an engine that has `window` in work; a clock of numbers."""
    texts: list[TimedText] = []
    in_work: list[float] = []
    now = 0.0
    for _ in range(count):
        if len(in_work) == window:
            now = heapq.heappop(in_work)
        finished = now + latency(draw, len(in_work) + 1)
        heapq.heappush(in_work, finished)
        texts.append(TimedText(now, finished))
    return texts


LATENCIES: dict[str, Draw] = {
    "all alike": lambda draw, load: 2.0,
    "exponential": lambda draw, load: draw.expovariate(0.5),
    "lognormal": lambda draw, load: draw.lognormvariate(0.5, 0.7),
    "two kinds of photos": lambda draw, load: 12.0 if draw.random() < 0.15 else 1.0,
    "slower under load, as a GPU is": lambda draw, load: draw.gauss(2, 0.3) * (1 + load / 16),
}


@pytest.mark.parametrize("latency", LATENCIES)
@pytest.mark.parametrize(("window", "tried"), [(4, 32), (16, 32), (32, 64), (128, 64)])
def test_the_interval_covers_the_true_end(latency: str, window: int, tried: int) -> None:
    """In 90 of 100 runs at least; and it is no wider than it must be where the window was full."""
    covered, widths = 0, []
    for seed in range(100):
        draw = random.Random(seed)
        trial = simulate(draw, LATENCIES[latency], window=window, count=tried)
        found = forecast_seconds(trial, window=window, count=2000)
        run = simulate(draw, LATENCIES[latency], window=window, count=2000)
        true = max(text.finished for text in run)
        covered += found.low <= true <= found.high
        assert found.low <= found.likely <= found.high
        widths.append(found.high / found.low)
    assert covered >= 90
    if latency == "all alike" and tried >= 2 * window:
        assert max(widths) < 1.1
