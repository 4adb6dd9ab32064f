"""Exports with one line per row: JSON lines, and the released code's dense text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from captioner.exports.selection import Selection
from data.errors import UserError
from data.files.atomic import replace_whole
from data.images import Status
from data.matching import list_some
from data.sparse.released import format_dense_line


def write_jsonl(selection: Selection, out: Path) -> int:
    """Write one JSON object per row with all columns; returns the number of rows.

    Raises:
        UserError: the disk is full, or a row is not available.
    """
    # Only ASCII: some readers also split lines at U+2028, which a caption can contain.
    rows = (row for table in selection.iterate() for row in table.to_pylist())
    return write_lines(out, (json.dumps(row) for row in rows))


def write_released(selection: Selection, out: Path) -> int:
    """One line per image in the order of the ids, as the released code reads it, by position.

    Raises:
        UserError: an id has no row or no text: a missing line would shift every later pair.
    """
    assert selection.ids is not None
    texts: list[str] = []
    silent: list[str] = []
    tables = selection.iterate()
    rows = (row for table in tables for row in table.select(["caption", "status"]).to_pylist())
    for name, row in zip(selection.ids.ids, rows, strict=True):
        text = row["caption"]
        if row["status"] != Status.OK or not (text and text.strip()):
            silent.append(f"{name} ({'no text' if row['status'] == 'ok' else row['status']})")
        else:
            texts.append(text)
    if silent:
        raise UserError(
            f"{len(silent):,} of {len(selection.ids.ids):,} ids have no text in "
            f"{selection.directory}: {list_some(silent)}; the file is read by position, so caption "
            "them again (d2s caption --retry-errors) or remove their ids"
        )
    model = str(selection.run["model"])
    return write_lines(out, (format_dense_line(text, model_id=model) for text in texts))


def write_lines(
    out: Path, lines: Iterable[str], *, header: str = "", brackets: bool = False
) -> int:
    """Write a file atomically; returns the number of lines after the header.

    With `brackets` the lines are the items of a JSON list.
    """
    count = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as f:
        f.write("[\n" if brackets else header and header + "\n")
        for line in lines:
            f.write((",\n" if count else "") + line if brackets else line + "\n")
            count += 1
        f.write("\n]\n" if brackets else "")
    return count
