"""Results of `d2s evaluate` for several models as tables, with the input size in every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.escaping import escape_latex, escape_markdown, show_name

_WAYS = ("i2t", "t2i")
RECALLS = {"r1": "R@1", "r5": "R@5", "r10": "R@10"}
_RANKS = {"median_rank": "median rank", "mean_rank": "mean rank"}
ECCV = {"map_at_r": "mAP@R", "r_precision": "R-Prec", "r1": "R@1"}
_KNOWN = {"eccv_caption": "ECCV Caption", "cxc": "CxC"}
_Results = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """`title` describes what was measured; the first column is the model, the second the input
    size."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def make_tables(results: _Results, *, ranks: bool = False) -> list[Table]:
    """Recalls of the whole split, then folds, ECCV Caption and CxC if all models have them.

    Args:
        ranks: also include the median and mean rank of the whole split.
    """
    first = results[0]
    about = f"{first['dataset']}, {first['split']}"
    counts = f"{_span(results, 'images')} images, {_span(results, 'captions')} captions"
    recalls = name_columns(RECALLS) | {"rsum": "rSum"}
    whole = recalls | (name_columns(_RANKS) if ranks else {})
    tables = [_tabulate(f"{about}: {counts}", results, results, whole)]
    cuts = [{cut["width"]: {**one, **cut} for cut in one.get("widths") or ()} for one in results]
    for width in cuts[0]:
        if all(width in cut for cut in cuts):
            title = f"{about}: the first {width} values of an embedding"
            tables.append(_tabulate(title, results, [cut[width] for cut in cuts], recalls))
    if all(one["folds"] for one in results):
        tables.append(_tabulate_folds(about, results, recalls))
    for key, name in _KNOWN.items():
        if all(one[key] for one in results):
            found = [one[key] for one in results]
            part = "" if all(one["complete"] for one in found) else ", not comparable: a part of it"
            columns = recalls if key == "cxc" else name_columns(ECCV)
            tables.append(_tabulate(f"{about}: {name}{part}", results, found, columns))
    return tables


def describe_counts(result: Mapping[str, Any]) -> list[str]:
    """One line per ground truth with several correct answers: how much of it is available."""
    lines = []
    for key, name in _KNOWN.items():
        if found := result[key]:
            counts = ", ".join(
                f"{found[f'{way}_queries']:,} {kind} with {found[f'{way}_answers']:,} right answers"
                for way, kind in zip(_WAYS, ("images", "captions"), strict=True)
            )
            queries, answers = (
                sum(found[f"{way}_{what}_missing"] for way in _WAYS)
                for what in ("queries", "answers")
            )
            missing = f"; {queries:,} queries and {answers:,} correct answers are missing"
            lines.append(f"{name}: {counts}{'' if found['complete'] else missing}")
    return lines


def write_text(tables: Sequence[Table], *, width: int = 100) -> str:
    """Columns for a terminal; those that do not fit are continued below, with the model
    repeated."""
    return "\n\n".join("\n".join([table.title, *_align(table, width)]) for table in tables)


def write_markdown(tables: Sequence[Table]) -> str:
    """Tables in GitHub's Markdown, each under its title."""
    parts = []
    for table in tables:
        rule = ["---", *("---:" for _ in table.head[1:])]
        rows = [[escape_markdown(cell) for cell in row] for row in table.rows]
        lines = ["| " + " | ".join(row) + " |" for row in (table.head, rule, *rows)]
        parts.append("\n".join([escape_markdown(table.title), "", *lines]))
    return "\n\n".join(parts)


def write_latex(tables: Sequence[Table]) -> str:
    """One LaTeX `table` each, in the style of booktabs."""
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


def name_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """The column heading of each figure of the results, in both directions."""
    return {
        f"{way}_{key}": f"{way.upper()} {name}" for way in _WAYS for key, name in columns.items()
    }


def _tabulate(title: str, results: _Results, found: _Results, columns: Mapping[str, str]) -> Table:
    """`found` are `results`, or parts of them."""
    rows = [
        (one["model"], f"{figures['px']} px", *(f"{figures[key]:.1f}" for key in columns))
        for one, figures in zip(results, found, strict=True)
    ]
    return Table(title, ("model", "input", *columns.values()), tuple(rows))


def _tabulate_folds(about: str, results: _Results, columns: Mapping[str, str]) -> Table:
    rows = []
    for one in results:
        folds = one["folds"]
        mean, deviation = folds["mean"], folds["deviation"]
        cells = [f"{mean[key]:.1f} ± {deviation[key]:.1f}" for key in columns]
        rows.append((one["model"], f"{folds['px']} px", *cells))
    sizes = sorted({size for one in results for size in one["folds"]["images"]})
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    title = f"{about}: mean ± deviation of {results[0]['folds']['count']} folds of {size} images"
    return Table(title, ("model", "input", *columns.values()), tuple(rows))


def _span(results: _Results, key: str) -> str:
    """The range of a count over models, which can differ if some images are unreadable for one."""
    counts = sorted({one[key] for one in results})
    return " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))


def _align(table: Table, width: int) -> list[str]:
    """Lines of at most `width` characters, unless a model's name is too long."""
    # One word of a heading per line: "I2T", "median", "rank".
    words = [name.split() for name in table.head]
    height = max(map(len, words))
    columns = [
        [*[""] * (height - len(head)), *head, *(show_name(row[n]) for row in table.rows)]
        for n, head in enumerate(words)
    ]
    columns = [
        [
            cell.rjust(max(map(len, cells))) if n else cell.ljust(max(map(len, cells)))
            for cell in cells
        ]
        for n, cells in enumerate(columns)
    ]
    named, figures = columns[:2], columns[2:]
    blocks = [named.copy()]
    for column in figures:
        used = sum(len(each[0]) + 2 for each in blocks[-1])
        if used + len(column[0]) > width and len(blocks[-1]) > len(named):
            blocks.append(named.copy())
        blocks[-1].append(column)
    return [
        line
        for number, block in enumerate(blocks)
        for line in ([""] if number else [])
        + ["  ".join(row).rstrip() for row in zip(*block, strict=True)]
    ]
