"""Rows with columns: JSON lines, CSV, Parquet, a data set of the Hub."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captioner.imports.columns import TextColumns, choose_text_columns, read_row
from captioner.imports.texts import TextSource
from data.errors import UserError, one_line

HUB_PREFIX = "hf:"
# Names of all columns, and the rows with at least those asked for; each row with its place.
_Rows = Iterator[tuple[str, Mapping[str, Any]]]
_Table = tuple[list[str], Callable[[TextColumns], _Rows]]


def read_table(path: str, *, format: str, wanted: TextColumns, split: str | None) -> TextSource:
    """The texts of a table; `split` is which of a data set's splits is read.

    Raises:
        UserError: it cannot be read, lacks a column, or holds a value of another kind.
    """
    if format == "hub":
        names, rows = _open_dataset(path.removeprefix(HUB_PREFIX), split or "train")
    else:
        names, rows = _OPENERS[format](Path(path))
    columns = choose_text_columns(path, names, wanted)
    texts = []
    models: set[str] = set()
    for where, values in rows(columns):
        texts.append(read_row(f"{path}: {where}", values, columns))
        model = values.get(columns.model) if columns.model else None
        if isinstance(model, str) and model:
            models.add(model)
    if format == "parquet" and not models:
        models |= _read_own_model(Path(path))
    name = path.removeprefix(HUB_PREFIX) if format == "hub" else Path(path).name
    return TextSource(name, format, texts, frozenset(models))


def _open_jsonl(path: Path) -> _Table:
    def rows(_: TextColumns | None = None) -> _Rows:
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    yield f"line {number}", _parse_line(path, number, line)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error

    first = next(rows(), ("", {}))[1]
    return list(first), rows


def _parse_line(path: Path, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}: line {number} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: line {number} is no JSON object")
    return value


def _open_csv(path: Path) -> _Table:
    # A dense text is longer than the reader's own limit only by mistake, yet that is for us to say.
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","

    def read() -> Iterator[tuple[int, list[str]]]:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, delimiter=delimiter, strict=True)
                for row in reader:
                    yield reader.line_num, row
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as CSV: {error}") from error

    names = next(read(), (0, []))[1]

    def rows(_: TextColumns) -> _Rows:
        for line, row in list_rows():
            if len(row) != len(names):
                raise UserError(
                    f"{path}: line {line} has {len(row)} columns and the header {len(names)}"
                )
            yield f"line {line}", dict(zip(names, row, strict=True))

    def list_rows() -> Iterator[tuple[int, list[str]]]:
        return ((line, row) for number, (line, row) in enumerate(read()) if number and row)

    return names, rows


def _open_parquet(path: Path) -> _Table:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {one_line(error)}") from error

    def rows(columns: TextColumns) -> _Rows:
        names = list(columns.named().values())
        if columns.file and pa.types.is_struct(file.schema_arrow.field(columns.file).type):
            # Of an image only its path: its bytes are most of the file.
            names = [f"{name}.path" if name == columns.file else name for name in names]
        number = 0
        try:
            for batch in file.iter_batches(4096, columns=names):
                for values in batch.to_pylist():
                    number += 1
                    yield f"row {number}", values
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read as Parquet: {one_line(error)}") from error

    return file.schema_arrow.names, rows


def _read_own_model(path: Path) -> set[str]:
    """The model of a file that we exported: there it stands in the metadata, not in a column."""
    metadata = pq.read_schema(path).metadata or {}
    model = json.loads(metadata.get(b"d2s.run", b"{}")).get("model")
    return {model} if isinstance(model, str) else set()


def _open_dataset(name: str, split: str) -> _Table:
    import datasets

    try:
        with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
            loaded = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises whatever its builders and its network raise
        raise UserError(f"the data set {name} cannot be loaded: {one_line(error)}") from error
    for column, feature in loaded.features.items():
        if isinstance(feature, datasets.Image):
            loaded = loaded.cast_column(column, datasets.Image(decode=False))

    def rows(columns: TextColumns) -> _Rows:
        chosen = loaded.select_columns(list(dict.fromkeys(columns.named().values())))
        return ((f"row {number}", values) for number, values in enumerate(chosen, start=1))

    return list(loaded.column_names), rows


_OPENERS = {"jsonl": _open_jsonl, "csv": _open_csv, "parquet": _open_parquet}
