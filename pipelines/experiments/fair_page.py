"""The page of a fair comparison: a table for each cell of the grid, and every run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.files.atomic import replace_whole, write_json
from pipelines.experiments.document import join_cells, name_column, show
from pipelines.experiments.methods import METHODS
from pipelines.workflow.origin import describe_code
from vse.evaluation.results import RECALLS

BUDGETS = ("equal steps", "equal seconds")
# 97.5 % quantiles of Student's t for 1 to 9 degrees of freedom; beyond, the last one, which makes
# intervals slightly too wide.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(gaps: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of differences, seed by seed; None with fewer than two."""
    if len(gaps) < 2:
        return None
    most = _STUDENT[min(len(gaps) - 2, len(_STUDENT) - 1)]
    half = most * statistics.stdev(gaps) / math.sqrt(len(gaps))
    middle = statistics.fmean(gaps)
    return middle - half, middle + half


def summarise(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method in a cell, compared with the baseline with the best validation."""
    methods = list(dict.fromkeys(run["method"] for run in runs))
    own = {
        method: {run["seed"]: run for run in runs if run["method"] == method} for method in methods
    }

    def mean(method: str, key: str) -> float:
        return statistics.fmean(run[key] for run in own[method].values())

    baselines = [method for method in methods if METHODS[method].is_baseline]
    best = max(baselines, key=lambda method: mean(method, "val_rsum")) if baselines else None
    rows = []
    for method in methods:
        gaps = [
            run["rsum"] - own[best][seed]["rsum"]
            for seed, run in own[method].items()
            if best is not None and method != best and seed in own[best]
        ]
        figures = {key: mean(method, key) for key in ("rsum", "val_rsum", "steps", "seconds")}
        rows.append(
            {
                "method": method,
                "variant": next(iter(own[method].values()))["variant"],
                "reference": method == best,
                **figures,
                "gap": statistics.fmean(gaps) if gaps else None,
                "interval": interval(gaps),
            }
        )
    return rows


def write_page(found: Mapping[str, Any], folder: Path, *, name: str | None = None) -> None:
    """fair_NAME.json and fair_NAME.md, by default with the recipe's name.

    Every figure comes from `found`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"fair_{name or Path(found['recipe']).stem}"
    write_json(folder / f"{stem}.json", dict(found))
    with replace_whole(folder / f"{stem}.md") as temporary:
        temporary.write_text("\n".join(format_page(found)) + "\n", encoding="utf-8")


def format_page(found: Mapping[str, Any]) -> list[str]:
    """The page as lines of Markdown."""
    teller = "the ground truth" if found["truth"] else "llava-scenes"
    lines = [
        "# Dense text compared with the best baseline at the same budget",
        "",
        f"Written by `{found['command']}`.",
        "",
        f"Recipe `{Path(found['recipe']).stem}`, {found['steps']:,} steps, {found['val']:,} "
        f"validation and {found['test']:,} test images, {len(found['seeds'])} seeds, on "
        f"{found['machine']}, dense text by {teller}.",
        *describe_code(found.get("code")),
        "",
        f"{describe_tuning(found['variants'])} The weights that are best on validation are kept; "
        f"training stops after {found['patience']} evaluations without improvement. Gap: "
        "difference in test rSum to the baseline with the best validation rSum (bold), seed by "
        "seed, with its 95 % interval. Seconds are those of steps and evaluations; startup, with "
        "cached tokens and the teacher's embeddings of stage 2, is not included.",
    ]
    for budget in BUDGETS:
        runs = found.get(budget, ())
        for bits, size in dict.fromkeys((run["bits"], run["size"]) for run in runs):
            here = [run for run in runs if (run["bits"], run["size"]) == (bits, size)]
            told = found["worlds"][f"{bits:g}"]["bits"]
            sum_ = sum(value for key, value in told.items() if key != "shape_from_neighbour")
            lines += ["", f"## {size:,} images, {sum_:.2f} bits per object, {budget}", ""]
            lines += format_rows(summarise(here))
    return [*lines, "", "## Every run", "", *format_runs(found)]


def describe_tuning(variants: Sequence[str]) -> str:
    """A description of the tuning."""
    if len(variants) < 2:
        return f"Nothing was tuned: every method uses the variant `{variants[0]}`."
    return (
        f"Every method is tuned over {len(variants)} variants on a separate seed and chosen by "
        "validation."
    )


def format_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of methods."""
    head = ["method", "variant", "steps", "seconds", "validation rSum", "test rSum", "gap"]
    lines = [join_cells(head), "|" + "---|" * len(head)]
    for row in rows:
        gap = show(row["gap"], sign="+")
        if row["interval"] is not None:
            gap += f" [{row['interval'][0]:+.1f}, {row['interval'][1]:+.1f}]"
        name = f"**{row['method']}**" if row["reference"] else row["method"]
        counts = [f"{row['steps']:,.0f}", f"{row['seconds']:,.0f}"]
        figures = [show(row["val_rsum"]), show(row["rsum"]), gap]
        lines.append(join_cells([name, row["variant"], *counts, *figures]))
    return lines


def format_runs(found: Mapping[str, Any]) -> list[str]:
    """Every run, including tuning."""
    own = ("bits", "size", "method", "variant", "seed", "steps", "best_step")
    figures = (*RECALLS, "val_rsum")
    head = ["what", *own, *(name_column(key) for key in RECALLS), "validation rSum"]
    lines = [join_cells(head), "|" + "---|" * len(head)]
    for what in ("tuning", *BUDGETS):
        for run in found.get(what, ()):
            name = f"tuning, {run['budget']}" if "budget" in run else what
            cells = [name, *(str(run[key]) for key in own), *(show(run[key]) for key in figures)]
            lines.append(join_cells(cells))
    return lines
