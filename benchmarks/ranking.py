"""Ranks of 5,000 images and 25,000 texts in both directions, compared with a full sort.

    python -m benchmarks.ranking [--images 5000] [--rounds 5] [--docs docs/benchmarks]

Every round times `vse.evaluation.retrieval.rank` and a naive version one after the other on the
same unit embeddings of width 512, with five texts per image. All ranks must be equal on integer
embeddings, whose scores are exact and often tie; on unit embeddings, different ranks are counted.
Memory is the peak of `rank` beyond its input, at two sizes.

This takes a few minutes on two cores; nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.documents import write_figures
from vse.evaluation.retrieval import Ranks, rank

TEXTS_AN_IMAGE, WIDTH = 5, 512
Table = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw_units(images: int, *, width: int, seed: int) -> Table:
    """Images (N, D) and texts (5 N, D) of length 1, each text near its image; image_of (5 N,)."""
    rng = np.random.default_rng(seed)
    image_of = np.repeat(np.arange(images), TEXTS_AN_IMAGE)
    seen = rng.standard_normal((images, width), dtype=np.float32)
    said = 0.15 * seen[image_of] + rng.standard_normal((len(image_of), width), dtype=np.float32)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    said /= np.linalg.norm(said, axis=1, keepdims=True)
    return seen, said, image_of


def round_off(table: Table, *, levels: int) -> Table:
    """The same as integers up to `levels`, whose products fit float32 without rounding."""
    seen, said, image_of = table
    whole = [np.rint(rows / np.abs(rows).max() * levels) for rows in (seen, said)]
    assert levels**2 * seen.shape[1] < 2**24
    return whole[0], whole[1], image_of


def rank_naively(images: np.ndarray, texts: np.ndarray, image_of: np.ndarray) -> Ranks:
    """Sort every row and column of all scores, then find the correct answers."""
    scores = images @ texts.T
    i2t = np.array([_find(row, image_of == image) for image, row in enumerate(scores)])
    rows = np.arange(len(images))
    t2i = np.array([_find(row, rows == image_of[text]) for text, row in enumerate(scores.T)])
    return Ranks(i2t, t2i)


def _find(row: np.ndarray, right: np.ndarray) -> int:
    """0-based rank of the best correct answer, after all wrong ones with the same score."""
    ranked = row[np.argsort(-row)]
    best = row[right].max()
    return int(np.searchsorted(-ranked, -best, side="right")) - int((row[right] == best).sum())


def count_different(one: Ranks, other: Ranks) -> int:
    """The number of different ranks."""
    return int((one.i2t != other.i2t).sum() + (one.t2i != other.t2i).sum())


def time_call(call: Callable[[], Ranks]) -> tuple[float, Ranks]:
    """Wall-clock seconds, and the result."""
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def measure_time(table: Table, *, rounds: int) -> dict[str, Any]:
    """Medians over the rounds; ratios are computed within each."""
    rank(*table)  # the first call starts the threads
    rank_seconds, keep_seconds, naive_seconds, different = [], [], [], []
    for number in range(rounds):
        seconds, found = time_call(lambda: rank(*table))
        rank_seconds.append(seconds)
        keep_seconds.append(time_call(lambda: rank(*table, keep=10))[0])
        seconds, expected = time_call(lambda: rank_naively(*table))
        naive_seconds.append(seconds)
        different.append(count_different(found, expected))
        print(
            f"round {number + 1}: {rank_seconds[-1]:.3f} s, naive {seconds:.2f} s", file=sys.stderr
        )
    ratios = [slow / fast for slow, fast in zip(naive_seconds, rank_seconds, strict=True)]
    return {
        "rounds": rounds,
        "rank_seconds": rank_seconds,
        "naive_seconds": naive_seconds,
        "with_top_10_seconds": keep_seconds,
        "median_rank_seconds": statistics.median(rank_seconds),
        "median_naive_seconds": statistics.median(naive_seconds),
        "median_with_top_10_seconds": statistics.median(keep_seconds),
        "median_ratio": statistics.median(ratios),
        "different_on_unit_embeddings": max(different),
    }


def measure_memory(images: int, *, width: int) -> dict[str, Any]:
    """Peak MiB beyond the embeddings, and the size of a full score matrix."""
    table = draw_units(images, width=width, seed=1)
    tracemalloc.start()
    rank(*table)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "images": images,
        "texts": len(table[1]),
        "peak_mib": peak / 2**20,
        "all_scores_mib": images * len(table[1]) * 4 / 2**20,
    }


def write_text(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    timed, exact = found["time"], found["exact"]
    lines = [
        f"{found['machine']}, numpy {found['numpy']}; {found['images']:,} images, "
        f"{found['texts']:,} texts, width {found['width']}, both directions; medians of "
        f"{timed['rounds']} rounds.",
        "",
        "| | seconds |",
        "|---|---|",
        f"| `vse.evaluation.retrieval.rank` | **{timed['median_rank_seconds']:.2f}** |",
        f"| the same, with the top ten | {timed['median_with_top_10_seconds']:.2f} |",
        f"| full sort of every row and column | {timed['median_naive_seconds']:.2f} |",
        f"| speedup (median ratio of the rounds) | {timed['median_ratio']:.1f} |",
        "",
        f"- Integer embeddings: all {exact['ranks']:,} ranks are equal. For {exact['tied']:,} of "
        "the texts, a wrong image has the same score, which counts against the model.",
        f"- Unit embeddings: {timed['different_on_unit_embeddings']} ranks differ.",
    ]
    lines += [
        f"- Memory at {part['images']:,} x {part['texts']:,}: at most {part['peak_mib']:,.0f} MiB "
        f"on top of the embeddings; a full score matrix would take {part['all_scores_mib']:,.0f} "
        "MiB."
        for part in found["memory"]
    ]
    return "\n".join(lines) + "\n"


def check_exact(table: Table) -> dict[str, int]:
    """Compare both rankings on integers; stops the benchmark if they differ."""
    images, texts, image_of = table
    found, expected = rank(*table), rank_naively(*table)
    if different := count_different(found, expected):
        raise SystemExit(f"{different} ranks differ from those of the naive twin")
    scores = images @ texts.T
    own = scores[image_of, np.arange(len(texts))]
    tied = int(((scores == own).sum(axis=0) > 1).sum())
    return {"ranks": len(found.i2t) + len(found.t2i), "tied": tied}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--docs", type=Path, help="folder for ranking.md and .json")
    settings = parser.parse_args()
    table = draw_units(settings.images, width=WIDTH, seed=0)
    found: dict[str, Any] = {
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
        "numpy": np.__version__,
        "images": len(table[0]),
        "texts": len(table[1]),
        "width": WIDTH,
        "exact": check_exact(round_off(table, levels=15)),
        "time": measure_time(table, rounds=settings.rounds),
        "memory": [measure_memory(n * settings.images, width=64) for n in (1, 4)],
    }
    text = write_text(found)
    write_figures(settings.docs, "ranking", title="Ranking", text=text, figures=found)
    print(json.dumps(found), file=sys.stderr)


if __name__ == "__main__":
    main()
