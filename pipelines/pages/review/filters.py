"""The page's filters: which there are, how many rows each lets through, and which rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from data.images import Status
from pipelines.pages.review.rows import SEVERITIES, RunRows
from pipelines.pages.review.view import Entry, Filter

_KINDS = ("all", "error", "status", "flag", "mark", "clean")
Key = tuple[str, str]


def list_filters(
    rows: RunRows, entries: Sequence[Entry]
) -> tuple[tuple[Filter, ...], tuple[Entry, ...]]:
    """The filters that let a row of the page through, gravest first, and the rows told of them."""
    total = Counter(
        key
        for case in zip(rows.statuses, rows.flags, rows.marks, strict=True)
        for key in _name(*case)
    )
    shown = Counter(
        key for entry in entries for key in _name(entry.status, entry.flags, entry.marks)
    )
    if sum(kind == "status" for kind, _ in shown) == 1:
        # One kind of error is what "errors" lets through already.
        shown = Counter({key: count for key, count in shown.items() if key[0] != "status"})
    keys = sorted(shown, key=lambda key: (_KINDS.index(key[0]), _rate(key), -total[key], key))
    numbers = {key: number for number, key in enumerate(keys)}
    filters = tuple(
        Filter(label=label, kind=kind, shown=shown[kind, label], total=total[kind, label])
        for kind, label in keys
    )
    told = tuple(
        replace(
            entry,
            filters=tuple(
                numbers[key]
                for key in _name(entry.status, entry.flags, entry.marks)
                if key in numbers
            ),
        )
        for entry in entries
    )
    return filters, told


def _name(status: str, flags: Sequence[str], marks: Sequence[str]) -> list[Key]:
    """The filters that let such a row through."""
    keys = [("all", "all")]
    if status != Status.OK:
        keys += [("error", "errors"), ("status", status)]
    elif not flags:
        keys.append(("clean", "no flag"))
    return [*keys, *(("flag", name) for name in flags), *(("mark", name) for name in marks)]


def _rate(key: Key) -> int:
    kind, label = key
    return SEVERITIES.get(label, max(SEVERITIES.values()) + 1) if kind == "flag" else 0
