"""Rows with columns: JSON lines, CSV, Parquet, a data set; each row with its place in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError, one_line
from data.files.text_files import NULLS, read_delimited, read_json_lines
from data.sources.dataset import PREFIX, load_rows
from data.sources.opening import refuse_nameless

Rows = Iterator[tuple[str, Mapping[str, Any]]]


class CsvRow(dict[str, str | None]):
    """The cells of a row by column; `NaN` and the like are None.

    `written` has all cells as they are, for columns in which such words can be texts.
    """

    def __init__(self, written: dict[str, str]) -> None:
        super().__init__((name, None if cell in NULLS else cell) for name, cell in written.items())
        self.written = written


@dataclass(frozen=True)
class Table:
    """The names of all columns, and the rows with at least the requested columns.

    `read` takes their names, and which of them is an image, of which only the path is read.
    """

    names: Sequence[str]
    read: Callable[[Sequence[str], str | None], Rows]


def open_table(
    path: str, *, kind: str, split: str | None = None, skip_blank: bool = False
) -> Table:
    """A table of `kind` jsonl, csv, parquet or hub (a folder, or `hf:NAME`).

    Args:
        split: which of a data set is read; train by default.
        skip_blank: skip blank JSON lines, if no row is located by its position.

    Raises:
        UserError: it cannot be read, then or while its rows are read.
    """
    if kind == "hub":
        return _open_dataset(path.removeprefix(PREFIX), split or "train")
    if kind == "jsonl":
        return _open_jsonl(Path(path), skip_blank=skip_blank)
    return {"csv": _open_csv, "parquet": _open_parquet}[kind](Path(path))


def _open_jsonl(path: Path, *, skip_blank: bool) -> Table:
    def read(columns: Sequence[str] = (), image: str | None = None) -> Rows:
        for number, value in read_json_lines(path, skip_blank=skip_blank):
            if not isinstance(value, dict):
                raise UserError(f"{path}: line {number} is not a JSON object")
            yield f"line {number}", value

    return Table(list(next(read(), ("", {}))[1]), read)


def _open_csv(path: Path) -> Table:
    sign = "\t" if path.suffix.lower() == ".tsv" else None
    names = [name.strip() for name in next(read_delimited(path, delimiter=sign), (0, []))[1]]

    def read(columns: Sequence[str], image: str | None) -> Rows:
        for line, row in islice(read_delimited(path, delimiter=sign), 1, None):
            if len(row) != len(names):
                raise UserError(
                    f"{path}: line {line} has {len(row)} columns, but the header has {len(names)}"
                )
            yield f"line {line}", CsvRow(dict(zip(names, row, strict=True)))

    return Table(names, read)


def _open_parquet(path: Path) -> Table:
    def refuse(error: Exception) -> UserError:
        return UserError(f"{path} cannot be read as Parquet: {one_line(error)}")

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise refuse(error) from error

    def read(columns: Sequence[str], image: str | None) -> Rows:
        names = list(columns)
        if image is not None and pa.types.is_struct(schema.field(image).type):
            # Only the path of an image: the bytes are most of the file.
            names = [f"{name}.path" if name == image else name for name in names]
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(4096, columns=names):
                    for values in batch.to_pylist():
                        number += 1
                        yield f"row {number}", values
        except (pa.ArrowException, OSError) as error:
            raise refuse(error) from error

    return Table(schema.names, read)


def _open_dataset(name: str, split: str) -> Table:
    refuse_nameless(name)
    loaded = load_rows({"name": name, "config": None, "split": split, "streaming": False})

    def read(columns: Sequence[str], image: str | None) -> Rows:
        chosen = loaded.select_columns(list(dict.fromkeys(columns)))
        return ((f"row {number}", values) for number, values in enumerate(chosen, start=1))

    return Table(loaded.column_names, read)
