"""What kind of file holds the texts, and its reader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from captioner.imports.columns import TextColumns
from captioner.imports.released import read_released
from captioner.imports.sharegpt import read_sharegpt
from captioner.imports.tables import HUB_PREFIX, read_table
from captioner.imports.texts import TextSource
from data.errors import UserError
from data.files.hashes import hash_file
from data.sparse.released import ImageIds

FORMATS = ("auto", "d2s-jsonl", "sharegpt4v", "jsonl", "csv", "parquet", "hub")
_BY_SUFFIX = {".json": "sharegpt4v", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_RELEASED = {"text", "model_id", "metadata"}


def read_texts(
    file: str, *, format: str, ids: ImageIds | None, columns: TextColumns, split: str | None
) -> TextSource:
    """Read a file of texts, or a data set: a folder, or `hf:NAME` of the Hub.

    Args:
        format: one of FORMATS; auto looks at the name and, of JSON lines, at the first.
        ids: the ids file; required for d2s-jsonl, whose texts have no other tie to their images.
        columns: of a table; those not named are found by their usual names.
        split: which split of a data set.

    Raises:
        UserError: no such file, of no known kind, or not readable as that.
    """
    path = Path(file)
    kind = _recognise(file) if format == "auto" else format
    if kind != "hub" and not path.is_file():
        raise UserError(f"{file} is no file: give one, or hf:NAME for a data set of the Hub")
    if columns.named() and kind in ("d2s-jsonl", "sharegpt4v"):
        raise UserError(f"{file} is {kind}, which has no columns to name")
    if kind == "d2s-jsonl":
        if ids is None:
            raise UserError(
                f"{file} has texts without ids: give the ids file of its split with --ids"
            )
        source = read_released(path, ids)
    elif kind == "sharegpt4v":
        source = read_sharegpt(path)
    else:
        source = read_table(file, format=kind, wanted=columns, split=split)
    return source if kind == "hub" else replace(source, sha256=hash_file(path))


def _recognise(file: str) -> str:
    path = Path(file)
    if file.startswith(HUB_PREFIX) or path.is_dir():
        return "hub"
    if not path.exists():
        raise UserError(f"{file} does not exist; a data set of the Hub is written {HUB_PREFIX}NAME")
    if path.suffix.lower() != ".jsonl":
        known = _BY_SUFFIX.get(path.suffix.lower())
        if known is None:
            raise UserError(f"{file} ends like no known kind: name it with --format")
        return known
    with path.open("rb") as lines:
        first = lines.readline()
    try:
        names = set(json.loads(first))
    except (ValueError, TypeError):
        names = set()
    return "d2s-jsonl" if "text" in names and names <= _RELEASED else "jsonl"
