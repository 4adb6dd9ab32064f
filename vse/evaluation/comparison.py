"""Models side by side: the results of `d2s evaluate` as tables, the input size in every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.escaping import escape_latex, escape_markdown, show_name

_WAYS = ("i2t", "t2i")
_RECALLS = {"r1": "R@1", "r5": "R@5", "r10": "R@10"}
_ECCV = {"map_at_r": "mAP@R", "r_precision": "R-Prec", "r1": "R@1"}
_Results = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """`title` says what was measured; the first column is the model, the second the input size."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def compare(results: _Results) -> list[Table]:
    """Recalls of the whole split; then folds, ECCV Caption and CxC, as far as all have them."""
    first = results[0]
    about = f"{first['dataset']}, {first['split']}"
    counts = f"{_span(results, 'images')} images, {_span(results, 'captions')} captions"
    tables = [_tabulate(f"{about}: {counts}", results, results, _RECALLS, rsum=True)]
    if all(one["folds"] for one in results):
        tables.append(_tabulate_folds(about, results))
    for key, name, columns in (("eccv_caption", "ECCV Caption", _ECCV), ("cxc", "CxC", _RECALLS)):
        if all(one[key] for one in results):
            found = [one[key] for one in results]
            whole = all(one["complete"] for one in found)
            title = f"{about}: {name}" + ("" if whole else ", not comparable: a part of it")
            tables.append(_tabulate(title, results, found, columns, rsum=key == "cxc"))
    return tables


def write_text(tables: Sequence[Table]) -> str:
    """Columns for a terminal."""
    return "\n\n".join("\n".join([table.title, *_align(table)]) for table in tables)


def write_markdown(tables: Sequence[Table]) -> str:
    """Tables of GitHub's Markdown, each under its title."""
    parts = []
    for table in tables:
        rule = ["---", *("---:" for _ in table.head[1:])]
        rows = [[escape_markdown(cell) for cell in row] for row in table.rows]
        lines = ["| " + " | ".join(row) + " |" for row in (table.head, rule, *rows)]
        parts.append("\n".join([escape_markdown(table.title), "", *lines]))
    return "\n\n".join(parts)


def write_latex(tables: Sequence[Table]) -> str:
    """A `table` each, in the manner of booktabs."""
    parts = ["% needs \\usepackage{booktabs}"]
    for table in tables:
        rows = [" & ".join(map(escape_latex, row)) + r" \\" for row in (table.head, *table.rows)]
        parts += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(table.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts)


def _tabulate(
    title: str, results: _Results, found: _Results, columns: Mapping[str, str], *, rsum: bool
) -> Table:
    """`found` has the figures of `results`, or is a part of them."""
    keys = [f"{way}_{key}" for way in _WAYS for key in columns] + ["rsum"] * rsum
    rows = [
        [*_start(one, figures["px"]), *(f"{figures[key]:.1f}" for key in keys)]
        for one, figures in zip(results, found, strict=True)
    ]
    return Table(title, _head(columns, rsum=rsum), tuple(map(tuple, rows)))


def _tabulate_folds(about: str, results: _Results) -> Table:
    keys = [*(f"{way}_{key}" for way in _WAYS for key in _RECALLS), "rsum"]
    rows = []
    for one in results:
        mean, deviation = one["folds"]["mean"], one["folds"]["deviation"]
        cells = [f"{mean[key]:.1f} ± {deviation[key]:.1f}" for key in keys]
        rows.append((*_start(one, one["folds"]["px"]), *cells))
    sizes = sorted({size for one in results for size in one["folds"]["images"]})
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    title = f"{about}: mean ± deviation of {results[0]['folds']['count']} folds of {size} images"
    return Table(title, _head(_RECALLS, rsum=True), tuple(rows))


def _start(result: Mapping[str, Any], px: int) -> tuple[str, str]:
    return result["model"], f"{px} px"


def _head(columns: Mapping[str, str], *, rsum: bool) -> tuple[str, ...]:
    cells = [f"{way.upper()} {name}" for way in _WAYS for name in columns.values()]
    return ("model", "input", *cells, *["rSum"] * rsum)


def _span(results: _Results, key: str) -> str:
    """Equal for all, unless an image can be read by one of them alone."""
    counts = sorted({one[key] for one in results})
    return " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))


def _align(table: Table) -> list[str]:
    rows = [[show_name(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.head))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
