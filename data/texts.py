"""Texts to embed or to read: lines, JSON lines, Parquet, captions of images, a captioning run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.dense.run import RUN_NAME
from data.dense.shards import iterate_rows
from data.errors import UserError, first_line
from data.sparse.captions import read_captions

# As people call them, the most telling name first.
_TEXT = ("text", "caption", "dense", "sentence")
_ID = ("id", "sample_id")
_FLICKR = re.compile(r"[^\t]+#\d+\t|image(_name)?\s*[,|]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TextRecord:
    """One text, and the image it is of where that is known. None for a row that has no text."""

    id: str
    text: str | None
    image_id: str | None = None
    file_name: str | None = None


def read_texts(
    path: Path, *, column: str | None = None, split: str | None = None
) -> list[TextRecord]:
    """The texts of a file or a captioning run, in order.

    Args:
        column: where .jsonl and .parquet have the text; by default one of the usual names.
        split: only the captions of this split; for files that know splits.

    Raises:
        UserError: it cannot be read, is of no known kind or empty, or an option does not fit.
    """
    kind = _recognise(path)
    if split is not None and kind != "captions":
        raise UserError(f"--split does not go with {path}: it has no splits")
    if column is not None and kind not in ("jsonl", "parquet"):
        raise UserError(f"--text-column does not go with {path}: it has no columns")
    records = list(_read(path, kind, column, split))
    if not records:
        raise UserError(f"{path} holds no texts{f' of the split {split}' if split else ''}")
    return records


def _recognise(path: Path) -> str:
    if path.is_dir():
        return "run" if (path / RUN_NAME).is_file() else "captions"
    if not path.is_file():
        raise UserError(f"the texts {path} do not exist")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".parquet"):
        return suffix[1:]
    if suffix == ".json":
        return "captions"
    if suffix in (".txt", ".csv", ".tsv", ".token"):
        with path.open("rb") as file:
            first = file.readline(1 << 16).decode("utf-8-sig", "replace")
        if _FLICKR.match(first):
            return "captions"
        if suffix == ".txt":
            return "lines"
    raise UserError(
        f"{path} is a file of no known kind: give .txt (a text a line), .jsonl, .parquet, captions "
        "(dataset_*.json, captions_*.json, captions.txt) or the folder of a captioning run"
    )


def _read(path: Path, kind: str, column: str | None, split: str | None) -> Iterator[TextRecord]:
    if kind == "lines":
        return _read_lines(path)
    if kind == "jsonl":
        return _make_records(path, _read_jsonl(path), column)
    if kind == "parquet":
        return _make_records(path, _read_parquet(path, column), column)
    if kind == "run":
        return _read_run(path)
    return _read_captions(path, split)


def _read_lines(path: Path) -> Iterator[TextRecord]:
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if line.strip():
            yield TextRecord(str(number), line.strip())


def _read_captions(path: Path, split: str | None) -> Iterator[TextRecord]:
    source = read_captions(path)
    for image in source.images:
        if split in (None, image.split):
            name = image.image_id or image.file_name
            for number, caption in enumerate(image.captions):
                yield TextRecord(f"{name}#{number}", caption, image.image_id, image.file_name)


def _read_run(path: Path) -> Iterator[TextRecord]:
    for table in iterate_rows(path, ["sample_id", "caption", "image_id", "file_name"]):
        for row in table.to_pylist():
            yield TextRecord(row["sample_id"], row["caption"], row["image_id"], row["file_name"])


def _read_jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is no JSON object")
        yield row


def _read_parquet(path: Path, column: str | None) -> Iterator[Mapping[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _choose(path, names, column)
            wanted = {*_TEXT, *_ID, "image_id", "file_name", column}
            for batch in file.iter_batches(columns=[name for name in names if name in wanted]):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {first_line(error)}") from error


def _make_records(
    path: Path, rows: Iterable[Mapping[str, Any]], column: str | None
) -> Iterator[TextRecord]:
    for number, row in enumerate(rows, start=1):
        text = row.get(_choose(path, list(row), column))
        if text is not None and not isinstance(text, str):
            raise UserError(f"{path}: row {number} has a text that is no text: {text!r:.80}")
        key = next((row[name] for name in _ID if row.get(name) is not None), number)
        image_id, file_name = (
            None if row.get(name) is None else str(row[name]) for name in ("image_id", "file_name")
        )
        yield TextRecord(str(key), text, image_id, file_name)


def _choose(path: Path, names: Sequence[str], column: str | None) -> str:
    """The column of texts."""
    if column is not None and column in names:
        return column
    found = next((name for name in _TEXT if name in names), None)
    if column is not None or found is None:
        missing = f"no column {column}" if column is not None else "no column of texts"
        raise UserError(
            f"{path} has {missing} (it has {', '.join(map(str, names)) or 'none'}): name one with "
            "--text-column"
        )
    return found


def _decode(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from error
