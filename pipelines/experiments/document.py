"""An ablation as Markdown; every figure comes from `results.collect`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.files.atomic import replace_whole, write_json
from pipelines.console.outputs import refuse_foreign
from pipelines.experiments.results import RULE
from pipelines.workflow.origin import describe_code
from vse.evaluation.results import RECALLS

NOTHING = "–"
_MARK = b"Written by `d2s ablate"


def refuse_documents(tables: Iterable[str], folder: Path) -> None:
    """UserError if files not written by d2s have the names of the pages."""
    for table in tables:
        path = folder / f"ablation_{table}.md"
        refuse_foreign(path, mark=_MARK)
        refuse_foreign(path.with_suffix(".json"), mark=b"d2s ablate")


def write_documents(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """ablation_NAME.md and .json for each table in `folder`; returns the Markdown files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for table in found["tables"]:
        path = folder / f"ablation_{table['table']}.md"
        write_json(path.with_suffix(".json"), {**found, "tables": [table]})
        with replace_whole(path) as temporary:
            temporary.write_text(write_document(table, found), encoding="utf-8")
        written.append(path)
    return written


def write_document(table: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """One table with its introduction and every run."""
    data, seeds = found["data"], table["seeds"]
    lines = [
        f"# {table['title']}",
        "",
        f"Written by `{found['command']}`.",
        "",
        f"{data['description']} Recipe `{found['recipe']}`, {found['px']} px. rSum on the "
        f"{table['split']} split: mean ± sample standard deviation over {len(seeds)} "
        f"seed{'s' if len(seeds) != 1 else ''}. The gain is relative to "
        f"“{table['reference']}”, seed by seed.",
    ]
    lines += describe_code(table.get("code"))
    lines += [f"\n{note}" for note in table["notes"]]
    runs = [run for row in table["rows"] for run in row["runs"]]
    if lost := max((run.get("images_left_out", 0) for run in runs), default=0):
        lines.append(f"\n{lost} images of the {table['split']} split could not be read.")
    if table["paper"]:
        lines.append(f"\nThe paper's figures: {table['paper']}, rSum of one run.")
    if table["decides"]:
        lines.append(f"\nThe rule: {RULE}.")
    return "\n".join([*lines, "", *format_rows(table), "", *format_runs(table)]) + "\n"


def format_rows(table: Mapping[str, Any]) -> list[str]:
    """The table itself."""
    own = ["validation gain", "pooled deviation", "kept"] if table["decides"] else ["paper"]
    head = [table["title"], "steps", "seeds", "rSum", "gain", *own]
    lines = [join_cells(head), "|" + "---|" * len(head)]
    for row in table["rows"]:
        cells = [row["name"], " + ".join(f"{n:,}" for n in row["steps"]), str(len(row["runs"]))]
        many = len(row["runs"]) > 1
        cells += [show_spread(row["rsum"], many), show_spread(row["gain"], many, sign="+")]
        cells += show_decision(row) if table["decides"] else [show(row["paper"])]
        lines.append(join_cells(cells))
    return lines


def show_decision(row: Mapping[str, Any]) -> list[str]:
    """Gain, deviation, kept or not."""
    decision = row.get("decision")
    if decision is None:
        return [NOTHING, NOTHING, "same settings" if row.get("same_as_reference") else NOTHING]
    kept = {True: "**kept**", False: "not kept", None: "undecided: one seed"}[decision["kept"]]
    return [show(decision["gain"], sign="+"), show(decision["pooled"]), kept]


def format_runs(table: Mapping[str, Any]) -> list[str]:
    """Every run's recalls."""
    columns = [name_column(key) for key in RECALLS]
    head = ["row", "seed", *columns, "validation rSum", "best step"]
    lines = [join_cells(head), "|" + "---|" * len(head)]
    for row in table["rows"]:
        for run in row["runs"]:
            figures = [show(run[key]) for key in (*RECALLS, "val_rsum")]
            lines.append(
                join_cells([row["name"], str(run["seed"]), *figures, str(run["best_step"])])
            )
    return lines


def show(value: float | None, *, sign: str = "") -> str:
    """A figure with one decimal."""
    return NOTHING if value is None else f"{value:{sign}.1f}"


def show_spread(value: Mapping[str, float] | None, many: bool, *, sign: str = "") -> str:
    """Mean ± deviation; only the mean for a single value."""
    if value is None:
        return NOTHING
    return show(value["mean"], sign=sign) + (f" ± {value['sd']:.1f}" if many else "")


def join_cells(cells: list[str]) -> str:
    """One row of a Markdown table; bars in cells are escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def name_column(key: str) -> str:
    """`i2t_r1` -> `I2T R@1`, `rsum` -> `rSum`."""
    if key == "rsum":
        return "rSum"
    way, cut = key.split("_r")
    return f"{way.upper()} R@{cut}"
