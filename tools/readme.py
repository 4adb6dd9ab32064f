"""Write measured results to the README, so that no figure is typed by hand.

    python -m tools.readme RESULTS_OF_DEMO docs/experiments/fair_scenes-frozen.json --tour

Everything between `<!-- results -->` and `<!-- /results -->` is replaced. With --tour, so is the
output of the commands between `<!-- tour -->` and `<!-- /tour -->`, which run in an empty folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.atomic import replace_whole
from pipelines.experiments.baseline import COMPARED
from pipelines.experiments.fair_page import summarise
from vse.evaluation.results import RECALLS

RESULTS, TOUR = "results", "tour"
# The methods of the fair comparison that the README shows.
LABELS = {"two-50": "dense to sparse", "joint": "joint", "joint-2": "joint, two captions"}


def write_results(demo: dict[str, Any]) -> str:
    """The results of one demo, as Markdown."""
    seconds, captioner, scenes = demo["seconds"], demo["captioner"], demo["scenes"]
    seed = demo["settings"]["seed"]
    rows = [
        f"| {method.name}: {method.note} | "
        + " | ".join(f"{demo[method.key][name]:.1f}" for name in RECALLS)
        + " |"
        for method in COMPARED
    ]
    oracle = demo["oracle"]
    rows.append(f"| *upper bound* | {oracle['i2t_r1']:.1f} | | | {oracle['t2i_r1']:.1f} | | | |")
    steps = {name: value for name, value in seconds.items() if name != "total"}
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in steps.items())
    # Otherwise the total would be at least their sum.
    if sum(steps.values()) > seconds["total"]:
        parts += "; the joint model is trained in parallel with the others"
    return "\n".join(
        [
            "| method | I2T R@1 | R@5 | R@10 | T2I R@1 | R@5 | R@10 | rSum |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            _wrap(
                f"One run (seed {seed}) of `make demo` on {demo['machine']}: "
                f"{seconds['total'] / 60:.1f} minutes after setup ({parts}). All three were "
                "trained for the same number of steps on the same images, with the frozen image "
                "tower of the captioner and a text tower from scratch. A sparse caption states "
                f"{scenes['facts_per_caption']:.1f} of the {scenes['facts_per_image']:.1f} facts "
                "of its image; five of them together leave out "
                f"{100 * scenes['share_untold_by_five']:.0f} %. {100 * captioner['true']:.1f} % "
                "of the captioner's statements are true, and they cover "
                f"{100 * captioner['told']:.1f} % of the facts."
            ),
        ]
    )


def write_gap(fair: dict[str, Any], page: str) -> str:
    """The gain of dense text by size of the training set, over seeds, as Markdown.

    Args:
        page: a link to all runs.
    """
    runs = [run for run in fair["equal steps"] if run["bits"] == 0]
    methods = [name for name in dict.fromkeys(run["method"] for run in runs) if name in LABELS]
    rows = []
    for size in dict.fromkeys(run["size"] for run in runs):
        found = summarise([run for run in runs if run["size"] == size])
        base = next(row for row in found if row["reference"])
        own = {row["method"]: row for row in found}
        cells = [f"{own[name]['rsum']:.1f} ({_gap(own[name])})" for name in methods]
        rows.append(f"| {size:,} | {base['rsum']:.1f} | {' | '.join(cells)} |")
    return "\n".join(
        [
            _wrap(
                "rSum by size of the training set: means over "
                f"{len(fair['seeds'])} seeds, {fair['steps']:,} steps each. The baseline is sparse "
                f"captions alone, {describe_baselines({run['method'] for run in runs})}. In "
                f"parentheses: the gap to it, with a 95 % interval ([all runs]({page})):"
            ),
            "",
            f"| training images | baseline | {' | '.join(LABELS[name] for name in methods)} |",
            "|---" * (2 + len(methods)) + "|",
            *rows,
        ]
    )


def describe_baselines(methods: Collection[str]) -> str:
    """How many captions the compared baselines read, and how one of them is chosen."""
    counts = {"sparse-1": "one", "sparse-2": "two"}
    read = [count for name, count in counts.items() if name in methods]
    ways = [f"{' or '.join(read)} per step"] if read else []
    decoder = ["one per step with the decoder"] if "sparse-decoder" in methods else []
    chosen = ("", ", whichever is better on validation", ", whichever is best on validation")
    return " or ".join([*ways, *decoder]) + chosen[len(read) + len(decoder) - 1]


def _gap(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['gap']:+.1f}; {low:+.1f} to {high:+.1f}"


def write_tour(block: str, folder: Path) -> str:
    """Regenerate a console block: run its commands in `folder`, and insert their stdout."""
    parts = []
    for line in re.findall(r"^\$ (d2s .*)$", block, re.MULTILINE):
        done = subprocess.run(
            f"{sys.executable} -P -m pipelines.cli {line.removeprefix('d2s ')}",
            shell=True,
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        parts.append(f"$ {line}\n{done.stdout.strip()}".strip())
    return "```console\n" + "\n\n".join(parts) + "\n```"


def read_section(readme: Path, name: str) -> tuple[str, str, str]:
    """The text before, between and after the marks. UserError if they are missing."""
    text = readme.read_text(encoding="utf-8")
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    if opening not in text or closing not in text:
        raise UserError(f"{readme} lacks the markers {opening} and {closing}")
    begin, end = text.index(opening) + len(opening), text.index(closing)
    return text[:begin], text[begin:end], text[end:]


def update(readme: Path, name: str, section: str) -> None:
    """Replace the text between the marks. UserError if they are missing."""
    head, _, tail = read_section(readme, name)
    with replace_whole(readme) as temporary:
        temporary.write_text(f"{head}\n\n{section}\n\n{tail}", encoding="utf-8")


def _wrap(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="results.json of the demo")
    parser.add_argument("fair", type=Path, nargs="?", help="fair_RECIPE.json of the experiment")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--tour", action="store_true", help="run the commands of the tour again")
    settings = parser.parse_args()
    sections = [write_results(json.loads(settings.demo.read_text()))]
    if settings.fair:
        page = os.path.relpath(settings.fair.with_suffix(".md"), settings.readme.parent)
        sections.append(write_gap(json.loads(settings.fair.read_text()), page))
    update(settings.readme, RESULTS, "\n\n".join(sections))
    if settings.tour:
        _, block, _ = read_section(settings.readme, TOUR)
        with tempfile.TemporaryDirectory() as folder:
            update(settings.readme, TOUR, write_tour(block, Path(folder)))


if __name__ == "__main__":
    main()
