"""Puts measured results into the README, so that no figure there is typed by hand.

    python -m tools.readme \
        artifacts/demo/results.json docs/experiments/dense_gap.json

Everything between `<!-- results -->` and `<!-- /results -->` is written anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.atomic import replace_whole
from vse.evaluation.results import RECALLS

OPEN, CLOSE = "<!-- results -->", "<!-- /results -->"


def write_results(demo: dict[str, Any]) -> str:
    """What one demo gave, as Markdown."""
    seconds, captioner, scenes = demo["seconds"], demo["captioner"], demo["scenes"]
    seed = demo["settings"]["seed"]
    rows = [
        f"| {label} | " + " | ".join(f"{demo[key][name]:.1f}" for name in RECALLS) + " |"
        for key, label in (
            ("dense_to_sparse", "dense text, then sparse captions"),
            ("sparse_only", "sparse captions alone"),
        )
    ]
    oracle = demo["oracle"]
    rows.append(
        f"| *best any model could reach* | {oracle['i2t_r1']:.1f} | | "
        f"| {oracle['t2i_r1']:.1f} | | | |"
    )
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if _is_step(name))
    return "\n".join(
        [
            f"On {demo['machine']}, `make demo` took {seconds['total'] / 60:.1f} minutes after "
            f"set-up ({parts}; the two arms side by side). "
            f"Equal steps, the same pictures, the same test split, one run (seed {seed}):",
            "",
            "| trained on | I2T R@1 | R@5 | R@10 | T2I R@1 | R@5 | R@10 | rSum |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"In this world a sparse caption tells {scenes['facts_per_caption']:.1f} of "
            f"{scenes['facts_per_image']:.1f} facts and five together leave "
            f"{100 * scenes['share_untold_by_five']:.0f} % untold. The dense text is what "
            f"`llava-scenes` wrote through vLLM: {100 * captioner['true']:.1f} % of its statements "
            f"are true, and it tells {100 * captioner['told']:.1f} % of the facts.",
        ]
    )


def write_gap(gap: dict[str, Any]) -> str:
    """What dense text buys by size of the training set, over seeds, as Markdown."""
    rows = [
        f"| {row['size']:,} | {_spread(row['sparse_only'])} | {_spread(row['dense_to_sparse'])} "
        f"| {_spread(row['gap'], sign='+')} |"
        for row in gap["summary"]
    ]
    return "\n".join(
        [
            f"rSum by size of the training set, mean ± deviation over {len(gap['seeds'])} seeds, "
            f"{gap['steps']['sparse']:,} steps an arm "
            "([every cell](docs/experiments/dense_gap.md)):",
            "",
            "| training images | sparse only | dense to sparse | gap |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def update(readme: Path, section: str) -> None:
    """Replace what stands between the marks. UserError if the marks are not there."""
    text = readme.read_text(encoding="utf-8")
    if OPEN not in text or CLOSE not in text:
        raise UserError(f"{readme} lacks the marks {OPEN} and {CLOSE}")
    head, tail = text[: text.index(OPEN)], text[text.index(CLOSE) :]
    with replace_whole(readme) as temporary:
        temporary.write_text(f"{head}{OPEN}\n\n{section}\n\n{tail}", encoding="utf-8")


def _is_step(name: str) -> bool:
    return name != "total"


def _spread(figures: dict[str, float], *, sign: str = "") -> str:
    return f"{figures['mean']:{sign}.1f} ± {figures['sd']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="results.json of the demo")
    parser.add_argument("gap", type=Path, nargs="?", help="dense_gap.json of the experiment")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    settings = parser.parse_args()
    sections = [write_results(json.loads(settings.demo.read_text()))]
    if settings.gap:
        sections.append(write_gap(json.loads(settings.gap.read_text())))
    update(settings.readme, "\n\n".join(sections))


if __name__ == "__main__":
    main()
