"""Additional columns of a source, such as alt texts and titles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from data.errors import UserError
from data.files.text_files import replace_halves
from data.matching import name_id
from data.sources import ImageRecord, Source
from data.sources.archive import read_abouts
from data.sources.dataset import describe_rows, load_rows, read_dataset
from data.sources.records import Records
from data.sources.table import describe_table, read_table

READABLE = frozenset({"text", "texts", "number"})


def describe_columns(source: Source) -> dict[str, str]:
    """The kind of each column: text, texts, number, image, bytes or other; {} for files.

    For tar files, the columns are the fields of the images' `.json`.

    Raises:
        UserError: the source cannot be read.
    """
    if source.kind == "parquet":
        return describe_table(source)
    if source.kind == "dataset":
        return describe_rows(load_rows(source.options))
    found: dict[str, str] = {}
    for _, about in read_abouts(source) if source.kind == "tar" else ():
        for name, value in about.items():
            kind = "other" if value is not None and show_value(value) is None else "text"
            if kind == "text" or name not in found:
                found[name] = kind
    return found


def attach_columns(records: Records, source: Source, names: Sequence[str]) -> Records:
    """Add the values of these columns to the records, which are in the source's order.

    Raises:
        UserError: the source cannot be read, or rows have disappeared.
    """
    return Records.collect(_attach(records, _read(source, names), names))


def show_value(value: Any) -> str | None:
    """A text, a number, or a list of them, as text; None for missing or other values.

    Each item of a list gets its own line. NaN and infinity count as missing.
    """
    if isinstance(value, list | tuple):
        shown = [show_value(item) for item in value if not isinstance(item, list | tuple)]
        return "\n".join(text for text in shown if text is not None) or None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    try:
        text = name_id(value)
    except ValueError:
        return None
    return None if text is None or not text.strip() else replace_halves(text)


def _read(source: Source, names: Sequence[str]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if source.kind == "parquet":
        return read_table(source, names)
    return read_dataset(source, names) if source.kind == "dataset" else read_abouts(source)


def _attach(
    records: Records, rows: Iterator[tuple[bytes, dict[str, Any]]], names: Sequence[str]
) -> Iterator[ImageRecord]:
    for record in records:
        values = next((values for locator, values in rows if locator == record.locator), None)
        if values is None:
            raise UserError(f"the source has no row of {record.file_name} any more")
        shown = ((name, show_value(values.get(name))) for name in names)
        yield replace(record, columns=tuple((name, text) for name, text in shown if text))
