"""How often the intervals of `d2s caption --dry-run` contain the truth, on simulated engines.

    python -m benchmarks.forecast [--runs 100] [--count 2000] [--docs docs/benchmarks]

An engine has `window` texts in flight, each with a random latency; a trial of `tried` images is
followed by a run of `count` images, with simulated time. `forecast_seconds` and `forecast_total`
only see the trial, as in a real dry run. The seeds differ from those of the tests.

Not simulated: reading and decoding of images, a shared machine, and a trial that is not
representative. Less than a minute on one core.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.documents import write_figures
from captioner.run.forecast import Interval, TimedText, forecast_seconds, forecast_total


@dataclass(frozen=True)
class Latency:
    """The latency of a text: random seconds, times a factor that depends on the load."""

    draw: Callable[[random.Random], float]
    slow_down: Callable[[int], float] = lambda load: 1.0


LATENCIES = {
    "all alike": Latency(lambda draw: 2.0),
    "exponential": Latency(lambda draw: draw.expovariate(0.5)),
    "lognormal": Latency(lambda draw: draw.lognormvariate(0.5, 0.7)),
    "two kinds of photos": Latency(lambda draw: 12.0 if draw.random() < 0.15 else 1.0),
    "slower under load, as a GPU is": Latency(
        lambda draw: draw.gauss(2, 0.3), lambda load: 1 + load / 16
    ),
}
# Texts in flight and images in the trial; too few for two full windows widen the interval.
TRIALS = ((4, 32), (16, 32), (32, 64), (128, 64), (128, 256))
_TOKENS_A_SECOND = 40
_FIRST_SEED = 1000


def simulate(draw: random.Random, latency: Latency, *, window: int, count: int) -> list[TimedText]:
    """Simulate images in an engine with `window` in flight."""
    texts: list[TimedText] = []
    in_work: list[float] = []
    now = 0.0
    for _ in range(count):
        if len(in_work) == window:
            now = heapq.heappop(in_work)
        length = latency.draw(draw)
        finished = now + length * latency.slow_down(len(in_work) + 1)
        heapq.heappush(in_work, finished)
        texts.append(TimedText(now, finished, round(_TOKENS_A_SECOND * length)))
    return texts


def try_seed(
    seed: int, latency: Latency, *, window: int, tried: int, count: int
) -> tuple[tuple[Interval, float], tuple[Interval, float]]:
    """Estimates of seconds and tokens from a trial, each with the true value of the run."""
    draw = random.Random(seed)
    trial = simulate(draw, latency, window=window, count=tried)
    run = simulate(draw, latency, window=window, count=count)
    seconds = forecast_seconds(trial, window=window, count=count)
    tokens = forecast_total([text.tokens for text in trial], count)
    true = max(text.finished for text in run)
    return (seconds, true), (tokens, sum(text.tokens for text in run))


def measure(latency: Latency, *, window: int, tried: int, count: int, runs: int) -> dict[str, Any]:
    """Over many runs: how many intervals contain the truth, and how wide they are."""
    found: dict[str, Any] = {}
    pairs = [
        try_seed(_FIRST_SEED + n, latency, window=window, tried=tried, count=count)
        for n in range(runs)
    ]
    for name, said in zip(("seconds", "tokens"), zip(*pairs, strict=True), strict=True):
        found[name] = {
            "covered": sum(one.low <= true <= one.high for one, true in said),
            "width": statistics.median((one.high - one.low) / true for one, true in said),
            "error": statistics.median(abs(one.likely - true) / true for one, true in said),
        }
    return found


def write_text(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    runs, rows = found["runs"], found["rows"]
    fewest = min(row[name]["covered"] for row in rows for name in ("seconds", "tokens"))
    lines = [
        f"Runs of {found['count']:,} images, {runs} of each kind. Covered: number of intervals "
        "that contain the true value. Width of the interval and error of the likely value: "
        "relative to the true value, medians.",
        "",
        "| a text takes | in flight | tried | time: covered | width | error | tokens: covered "
        "| width | error |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [
            f"{row[name]['covered']} | {row[name]['width']:.0%} | {row[name]['error']:.1%}"
            for name in ("seconds", "tokens")
        ]
        lines.append(
            f"| {row['latency']} | {row['window']} | {row['tried']} | {' | '.join(cells)} |"
        )
    lines += [
        "",
        f"The lowest coverage is {fewest} of {runs}. By default, a dry run tries twice as many "
        "images as the engine has in flight. With fewer, as in the rows with 128 in flight and 64 "
        "tried, the engine is never full during the trial, and the interval of time is wide.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--count", type=int, default=2000, help="images of each run")
    parser.add_argument("--docs", type=Path, help="folder for forecast.md and .json")
    settings = parser.parse_args()
    rows = [
        {"latency": name, "window": window, "tried": tried}
        | measure(latency, window=window, tried=tried, count=settings.count, runs=settings.runs)
        for name, latency in LATENCIES.items()
        for window, tried in TRIALS
    ]
    found = {"runs": settings.runs, "count": settings.count, "rows": rows}
    title = "Estimates of captioning runs"
    write_figures(settings.docs, "forecast", title=title, text=write_text(found), figures=found)


if __name__ == "__main__":
    main()
