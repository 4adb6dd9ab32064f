"""Steps per second with frozen towers: cached tokens compared with recomputed ones.

    python -m benchmarks.frozen_tokens [--rounds 3] [--stage 1] [--docs docs/benchmarks]

EfficientNet-Lite0 at 224 px and a text tower of MiniLM's size (6 blocks of 384), random weights,
batches of 64; both variants read the same images and texts, and the loss of their first step must
be the same up to rounding. Each round runs each variant once; ratios are computed within a round.
The one-time cost before the first step (tokens, token ids) is shown next to the rate. Nothing else
may run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.documents import write_figures
from benchmarks.training_rate import write_world
from data.environment import count_cores
from vse.runs.folder import read_log
from vse.samples.discovery import find_input
from vse.training.run import train
from vse.training.spec import RunSpec, make_spec

STEPS = {"kept": 40, "anew": 3}  # of each variant
WARM = {"kept": 8, "anew": 1}  # of them, not counted
SAME = 1e-4  # relative difference of the two losses
TITLES = {"kept": "`data.cache_tokens`", "anew": "computed in each step"}
RAW: dict[str, Any] = {
    "image": {
        "config": {"library": "timm", "name": "efficientnet_lite0"},
        "px": 224,
        "freeze": "all",
    },
    "text": {
        "config": {
            "model_type": "bert",
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "max_position_embeddings": 512,
        },
        "vocab_size": 2000,
        "max_tokens": 512,
        "freeze": "all",
    },
    "loss": {"align": "infonce", "on_collapse": "warn"},
    "data": {"crop_min": 1.0, "flip": 0.0, "word_mask": 0.0, "items": "images"},
    "optim": {"batch_size": 64, "schedule": "constant", "eval_every": 10**6},
}


def specify(stage: str, way: str, out: Path, init: Path | None) -> RunSpec:
    """The spec of one variant in the current folder."""
    data = {**RAW["data"], "cache_images": True, "cache_tokens": way == "kept"}
    steps = STEPS[way]
    return make_spec(
        stage=stage,
        out=out,
        raw={**RAW, "data": data},
        overrides=(),
        options={"optim__steps": steps, "optim__log_every": 1},
        paths=find_input(
            images=Path("photos/images"), captions=Path("photos"), dense=None, wants_dense=True
        ),
        init=init,
        limit=None,
    )


def measure(stage: str, way: str, out: Path, init: Path | None) -> dict[str, Any]:
    """Steps per second, seconds before the first step, and its loss."""
    began = time.perf_counter()
    train(specify(stage, way, out, init), report=lambda event: None)
    seconds = time.perf_counter() - began
    steps = [event for event in read_log(out) if event["event"] == "step"]
    rates = [event["samples_per_s"] / RAW["optim"]["batch_size"] for event in steps[WARM[way] :]]
    rate = len(rates) / sum(1 / one for one in rates)
    return {
        "rate": rate,
        "before": max(0.0, seconds - STEPS[way] / rate),
        "loss": steps[0]["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stage", choices=["1", "2"], default="1")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--docs", type=Path)
    given = parser.parse_args()
    docs = None if given.docs is None else given.docs.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_world(Path("photos"), given.images)
        init = None
        if given.stage == "2":
            init = Path("first/stage1")  # with a cache of its own
            train(specify("1", "kept", init, None), report=lambda event: None)
        rounds = [
            {
                way: measure(given.stage, way, Path(f"runs/{way}-{number}"), init)
                for way in ("anew", "kept")
            }
            for number in range(given.rounds)
        ]
        os.chdir("/")
    for one in rounds:
        kept, anew = (one[way]["loss"] for way in ("kept", "anew"))
        if abs(kept - anew) > SAME * abs(anew):
            sys.exit(f"the losses differ: {kept} with cached tokens, {anew} without")
    ratios = [one["kept"]["rate"] / one["anew"]["rate"] for one in rounds]
    ratio = statistics.median(ratios)
    lines = ["| tokens | steps/s | one-time cost, s |", "|---|---|---|"]
    for way, title in TITLES.items():
        rate = statistics.median(one[way]["rate"] for one in rounds)
        # The first round fills the cache.
        lines.append(f"| {title} | {rate:.2f} | {rounds[0][way]['before']:.0f} |")
    text = (
        f"Stage {given.stage}, EfficientNet-Lite0 at 224 px and a text tower of 6 blocks of 384, "
        f"both frozen, random weights, {given.images} images, batches of 64, "
        f"{count_cores()} cores; median of {given.rounds} rounds.\n\n"
        + "\n".join(lines)
        + f"\n\nRatio per round: {ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f}).\n"
    )
    title = "Frozen towers with cached tokens"
    figures = {"rounds": rounds, "ratio": ratio, "cores": count_cores()}
    write_figures(docs, "frozen_tokens", title=title, text=text, figures=figures)


if __name__ == "__main__":
    main()
