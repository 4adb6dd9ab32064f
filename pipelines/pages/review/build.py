"""From a captioning run on disk to the Review that the page and the contact sheet show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.dense.run import read_run
from data.sources import Source
from pipelines.pages.kit.thumbnails import add_thumbnails, find_addresses
from pipelines.pages.review.facts import list_facts, show_name
from pipelines.pages.review.filters import list_filters
from pipelines.pages.review.histograms import draw_counts, draw_scores, draw_shares, tally
from pipelines.pages.review.rows import RunRows, pick_rows, read_rows, select_rows
from pipelines.pages.review.view import Entry, Histogram, Review

# A page is mailed and opened in a browser: 16 MB of JPEG are 21 MB in it.
MAX_PICTURE_BYTES = 16_000_000


def assemble_review(
    directory: Path,
    *,
    images: Source | None,
    flag: str | None,
    sort: str,
    limit: int,
    picture_bytes: int = MAX_PICTURE_BYTES,
    on_entry: Callable[[int, int], None] = lambda done, total: None,
) -> Review:
    """Read a run and the pictures of at most `limit` of its rows.

    `images` is where the pictures are, None if they are not there: the rows are then shown
    without. Pictures beyond `picture_bytes` in all are left out. `on_entry` gets how many
    rows of how many are ready.

    Raises:
        UserError: no run, nothing finished, damaged shards or scores, no row with this flag.
    """
    run, rows = read_run(directory), read_rows(directory)
    chosen = select_rows(rows, flag=flag)
    picked = pick_rows(rows, chosen, sort=sort, limit=limit)
    filters, entries = list_filters(rows, _build_entries(rows, picked))
    if images is not None:
        addresses = find_addresses(directory, rows.table.take(picked))
        entries = add_thumbnails(
            entries, addresses, images, most_bytes=picture_bytes, on_entry=on_entry
        )
    return Review(
        title=show_name(directory.resolve().name),
        model=str(run.get("model", "")),
        planned=_count_planned(run, rows),
        rows=len(rows.statuses),
        ok=int(np.count_nonzero(rows.severity)),
        flagged=sum(bool(names) for names in rows.flags),
        matching=len(chosen),
        asked=flag,
        sort=sort,
        scored=rows.scores is not None,
        facts=list_facts(run),
        histograms=_draw_histograms(rows),
        flags=tally(name for names in rows.flags for name in names),
        errors=tally(_explain_error(row) for row in _list_errors(rows)),
        filters=filters,
        entries=entries,
        notes=_note_gaps(run, rows, images),
    )


def _build_entries(rows: RunRows, picked: Sequence[int]) -> list[Entry]:
    ranks = np.empty(len(rows.statuses), int)
    ranks[rows.order("worst")] = np.arange(len(rows.statuses))
    table = rows.table.take(picked)
    return [
        _build_entry(rows, position, rank=int(ranks[position]), row=row)
        for position, row in zip(picked, table.to_pylist(), strict=True)
    ]


def _build_entry(rows: RunRows, position: int, *, rank: int, row: Mapping[str, Any]) -> Entry:
    score = None if rows.scores is None else float(rows.scores[position])
    size = (row["width"], row["height"])
    return Entry(
        position=position,
        rank=rank,
        name=show_name(row["file_name"]),
        status=row["status"],
        error=row["error"],
        text=row["caption"],
        flags=rows.flags[position],
        marks=rows.marks[position],
        words=row["caption_words"],
        tokens=row["caption_tokens"],
        repetition=row["repetition"],
        score=score if score is not None and np.isfinite(score) else None,
        captions=tuple(row["captions"] or ()),
        size=None if None in size else size,
    )


def _draw_histograms(rows: RunRows) -> tuple[Histogram, ...]:
    drawn = [
        draw_counts("Words of a text", rows.words, unit="words"),
        draw_counts("Tokens of a text", rows.tokens, unit="tokens"),
        draw_shares("Repetition", rows.repetition),
        None if rows.scores is None else draw_scores("CLIPScore", rows.scores),
    ]
    return tuple(histogram for histogram in drawn if histogram is not None)


def _list_errors(rows: RunRows) -> list[dict[str, Any]]:
    places = np.flatnonzero(rows.severity == 0)
    errors: list[dict[str, Any]] = rows.table.select(["status", "error"]).take(places).to_pylist()
    return errors


def _explain_error(row: Mapping[str, Any]) -> str:
    return f"{row['status']}: {row['error']}" if row["error"] else str(row["status"])


def _count_planned(run: Mapping[str, Any], rows: RunRows) -> int:
    planned = run.get("planned")
    return planned if isinstance(planned, int) else len(rows.statuses)


def _note_gaps(run: Mapping[str, Any], rows: RunRows, images: Source | None) -> tuple[str, ...]:
    notes = []
    if (planned := _count_planned(run, rows)) > len(rows.statuses):
        notes.append(
            f"The run is not finished: {len(rows.statuses):,} of {planned:,} images are in shards."
        )
    if images is None:
        notes.append("The images are not here, so there are no pictures: --images names it.")
    engine = run.get("engine")
    if isinstance(engine, Mapping) and engine.get("note"):
        notes.append(f"The engine says: {engine['note']}.")
    return tuple(notes)
