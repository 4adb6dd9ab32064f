"""Building the Review for the page and the contact sheet from a captioning run on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.dense.images import find_locators, refuse_other
from data.dense.run import find_pixel_limit, read_run
from data.escaping import show_name
from data.images import Status
from data.sources import Source
from data.sources.reader import ImageReader
from pipelines.pages.kit.thumbnails import (
    MAX_PICTURE_BYTES,
    Address,
    ThumbnailBudget,
    read_picture,
)
from pipelines.pages.review.facts import list_facts
from pipelines.pages.review.histograms import count_labels, draw_counts, draw_scores, draw_shares
from pipelines.pages.review.rows import SEVERITIES, RunRows, pick_rows, read_rows, select_rows
from pipelines.pages.review.view import Filter, Histogram, Review, ReviewRow

# The kinds of filters, in the order of their buttons.
_KINDS = ("all", "error", "status", "flag", "mark", "clean")
FilterKey = tuple[str, str]


def build_review(
    directory: Path,
    *,
    images: Source | None,
    flag: str | None,
    sort: str,
    limit: int,
    picture_bytes: int = MAX_PICTURE_BYTES,
    on_entry: Callable[[int, int], None] = lambda done, total: None,
) -> Review:
    """Read a run and the images of at most `limit` of its rows.

    `images` is the location of the images, None if unavailable: rows are then shown without.
    Pictures beyond `picture_bytes` in total are left out. `on_entry` receives the number of
    finished rows and the total.

    Raises:
        UserError: no run, no finished shard, damaged shards or scores, or no row with this flag.
    """
    run, rows = read_run(directory), read_rows(directory)
    chosen = select_rows(rows, flag=flag)
    picked = pick_rows(rows, chosen, sort=sort, limit=limit)
    filters, entries = _list_filters(rows, _build_entries(rows, picked))
    if images is not None:
        places = _find_images(directory, rows.table.take(picked))
        budget = ThumbnailBudget(picture_bytes, max_pixels=find_pixel_limit(run))
        entries = _add_thumbnails(entries, places, images, budget, on_entry=on_entry)
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
        flags=count_labels(name for names in rows.flags for name in names),
        errors=count_labels(_explain_error(row) for row in _list_errors(rows)),
        filters=filters,
        entries=entries,
        notes=_note_gaps(run, rows, images),
    )


def _build_entries(rows: RunRows, picked: Sequence[int]) -> list[ReviewRow]:
    ranks = np.empty(len(rows.statuses), int)
    ranks[rows.order("worst")] = np.arange(len(rows.statuses))
    table = rows.table.take(picked)
    return [
        _build_entry(rows, position, rank=int(ranks[position]), row=row)
        for position, row in zip(picked, table.to_pylist(), strict=True)
    ]


def _build_entry(rows: RunRows, position: int, *, rank: int, row: Mapping[str, Any]) -> ReviewRow:
    score = None if rows.scores is None else float(rows.scores[position])
    size = (row["width"], row["height"])
    return ReviewRow(
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


def _find_images(directory: Path, picked: pa.Table) -> list[tuple[Address, str | None]]:
    """The addresses and the SHA-256 of the images of some rows of a run."""
    wanted = ("sample_id", "file_name", "image_sha256")
    ids, names, hashes = (picked.column(name).to_pylist() for name in wanted)
    addresses = map(Address, names, find_locators(directory, ids))
    return list(zip(addresses, hashes, strict=True))


def _add_thumbnails(
    entries: Sequence[ReviewRow],
    places: Sequence[tuple[Address, str | None]],
    source: Source,
    budget: ThumbnailBudget,
    *,
    on_entry: Callable[[int, int], None],
) -> tuple[ReviewRow, ...]:
    """Add pictures to the entries, or the reason why there is none. Error rows have no picture."""
    told = []
    reader = ImageReader(source)
    for entry, (address, sha256) in zip(entries, places, strict=True):
        if entry.ok:
            found = budget.show(entry.name, address, partial(_read, reader, address, sha256))
            entry = replace(entry, picture=found.thumbnail, missing=found.missing)
        told.append(entry)
        on_entry(len(told), len(entries))
    reader.close()
    return tuple(told)


def _read(reader: ImageReader, address: Address, sha256: str | None) -> bytes:
    return refuse_other(read_picture(reader, address), sha256)


def _list_filters(
    rows: RunRows, entries: Sequence[ReviewRow]
) -> tuple[tuple[Filter, ...], tuple[ReviewRow, ...]]:
    """The filters that match rows, most severe first, and the rows with their filters."""
    total = Counter(
        key
        for case in zip(rows.statuses, rows.flags, rows.marks, strict=True)
        for key in _name_filters(*case)
    )
    shown = Counter(
        key for entry in entries for key in _name_filters(entry.status, entry.flags, entry.marks)
    )
    if sum(kind == "status" for kind, _ in shown) == 1:
        # With a single kind of error, "errors" is enough.
        shown = Counter({key: count for key, count in shown.items() if key[0] != "status"})
    keys = sorted(shown, key=lambda key: (_rate_filter(key), -total[key], key))
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
                for key in _name_filters(entry.status, entry.flags, entry.marks)
                if key in numbers
            ),
        )
        for entry in entries
    )
    return filters, told


def _name_filters(status: str, flags: Sequence[str], marks: Sequence[str]) -> list[FilterKey]:
    """The filters that match this row."""
    keys = [("all", "all")]
    if status != Status.OK:
        keys += [("error", "errors"), ("status", status)]
    elif not flags:
        keys.append(("clean", "no flag"))
    return [*keys, *(("flag", name) for name in flags), *(("mark", name) for name in marks)]


def _rate_filter(key: FilterKey) -> tuple[int, int]:
    kind, label = key
    severity = SEVERITIES.get(label, max(SEVERITIES.values()) + 1) if kind == "flag" else 0
    return _KINDS.index(kind), severity


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
    """The rows of the whole run: one for each image and sample."""
    planned, settings = run.get("planned"), run.get("settings")
    text = settings.get("text") if isinstance(settings, dict) else None
    samples = text.get("samples", 1) if isinstance(text, dict) else 1
    return planned * samples if isinstance(planned, int) else len(rows.statuses)


def _note_gaps(run: Mapping[str, Any], rows: RunRows, images: Source | None) -> tuple[str, ...]:
    notes = []
    if (planned := _count_planned(run, rows)) > len(rows.statuses):
        notes.append(
            f"The run is not finished: {len(rows.statuses):,} of {planned:,} rows are in shards."
        )
    if images is None:
        notes.append(
            "The images were not found, so there are no thumbnails: specify their folder with "
            "--images."
        )
    engine = run.get("engine")
    if isinstance(engine, Mapping) and engine.get("note"):
        notes.append(f"Note from the engine: {engine['note']}.")
    return tuple(notes)
