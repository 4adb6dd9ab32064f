"""Parquet files that contain images, like the data sets of the Hub."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError, first_line
from data.files.hashes import stamp_files
from data.images import ImageError, Status
from data.sources.cells import AllowedPlaces, CellReader, refuse_unasked
from data.sources.columns import Columns, choose_columns, make_record
from data.sources.download import WebAddress
from data.sources.record import ImageRecord, Listing, Source, keep_typed, name_containers
from data.sources.records import Records

# Reading one row of a group means decompressing the group; the next rows are usually wanted too.
_ROWS_KEPT = 256
_MOST_OPEN = 8


def open_tables(files: Sequence[Path], *, wanted: Columns) -> Source:
    """A source of Parquet files; reads the columns, not the rows.

    Raises:
        UserError: a file cannot be read, or no column contains images.
    """
    schema = _open(files[0]).schema_arrow
    columns = choose_columns(str(files[0]), _describe(schema), wanted)
    options = {
        "files": [str(keep_typed(path)) for path in files],
        "stamps": [stamp_files([path]) for path in files],
        "columns": columns.to_dict(),
        "fetch": wanted.image is not None,
    }
    return Source("parquet", str(keep_typed(files[0]).parent), options)


def list_tables(source: Source, *, by_place: bool = False) -> Listing:
    """One record per row, in the order of files and rows; images are not read.

    `by_place` puts file, row group and row before names that are not unique.

    Raises:
        UserError: a file cannot be read or lacks a column, or two rows have the same id.
    """
    return Listing(Records.collect(_iterate_records(source, by_place)))


def _iterate_records(source: Source, by_place: bool) -> Iterator[ImageRecord]:
    columns = Columns(**source.options["columns"])
    files = source.options["files"]
    for number, (path, shown) in enumerate(zip(files, name_containers(files), strict=True)):
        file = _open(Path(path))
        missing = set(columns.named()) - set(file.schema_arrow.names)
        if missing:
            raise UserError(f"{path} has no column {', '.join(sorted(missing))}")
        _refuse_addresses(file, path, source)
        # Only the path of an image is needed here: the bytes are most of the file.
        names = [name for name in columns.named() if name != columns.image]
        if pa.types.is_struct(file.schema_arrow.field(columns.image).type):
            names.append(f"{columns.image}.path")
        for group, row, values in _read_rows(file, names):
            locator = _name_row(number, group, row)
            place = f"{shown}/{group}/{row}"
            yield make_record(columns, values, locator=locator, place=place, by_place=by_place)


def describe_table(source: Source) -> dict[str, str]:
    """The columns, and what each can be used for: image, bytes, text, texts, number or other.

    Raises:
        UserError: it cannot be read.
    """
    return _describe(_open(Path(source.options["files"][0])).schema_arrow)


def read_table(source: Source, names: Sequence[str]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The locator of each row and its values in these columns, in the order of the records.

    Raises:
        UserError: a file cannot be read or lacks a column.
    """
    for number, path in enumerate(source.options["files"]):
        file = _open(Path(path))
        if missing := set(names) - set(file.schema_arrow.names):
            raise UserError(f"{path} has no column {', '.join(sorted(missing))}")
        for group, row, values in _read_rows(file, names):
            yield _name_row(number, group, row), values


def _name_row(number: int, group: int, row: int) -> bytes:
    return f"parquet:{number}:{group}:{row}".encode()


class TableReader:
    """Reads single images; neighbors of the last one are kept, since they are usually next."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._column = str(source.options["columns"]["image"])
        fetch = bool(source.options.get("fetch"))
        self._cells = CellReader(AllowedPlaces(folders=(source.root,), fetch=fetch))
        self._files: dict[int, pq.ParquetFile] = {}
        self._at: tuple[int, int, int] = (-1, -1, 0)
        self._batch: pa.Array | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def find(self, number: int, group: int, row: int) -> bytes | WebAddress:
        """The bytes of one image, or where they can be fetched.

        Raises:
            UserError: the file cannot be read.
            ImageError: the row has no image.
        """
        try:
            cell = self._seek(number, group, row)
        except (pa.ArrowException, OSError) as error:
            path = self._source.options["files"][number]
            raise UserError(f"{path} cannot be read: {first_line(error)}") from error
        except StopIteration:
            message = "the table has fewer rows than before"
            raise ImageError(Status.DECODE_ERROR, message) from None
        return self._cells.find(cell)

    def close(self) -> None:
        """Close the files that were kept open."""
        self._cells.close()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _seek(self, number: int, group: int, row: int) -> Any:
        if (number, group) != self._at[:2] or row < self._at[2]:
            if number not in self._files:
                if len(self._files) >= _MOST_OPEN:
                    self._files.pop(next(iter(self._files))).close()
                self._files[number] = _open(Path(self._source.options["files"][number]))
            self._batches = self._files[number].iter_batches(
                _ROWS_KEPT, row_groups=[group], columns=[self._column]
            )
            self._batch, self._at = None, (number, group, 0)
        while self._batch is None or row >= self._at[2] + len(self._batch):
            start = self._at[2] + (len(self._batch) if self._batch is not None else 0)
            self._batch = next(self._batches).column(0)
            self._at = (number, group, start)
        return self._batch[row - self._at[2]].as_py()


def _read_rows(
    file: pq.ParquetFile, names: Sequence[str]
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if not names:
            yield from ((group, row, {}) for row in range(count))
            continue
        row = 0
        for batch in file.iter_batches(4096, row_groups=[group], columns=names):
            for values in batch.to_pylist():
                yield group, row, values
                row += 1


def _refuse_addresses(file: pq.ParquetFile, path: str, source: Source) -> None:
    """Only columns of texts are checked, by their first row: reading images would be expensive."""
    column = source.options["columns"]["image"]
    if _describe(file.schema_arrow)[column] == "text" and file.metadata.num_rows:
        first = next(file.iter_batches(1, columns=[column])).column(0)[0].as_py()
        refuse_unasked(path, column, first, fetch=bool(source.options.get("fetch")))


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {first_line(error)}") from error


def _describe(schema: pa.Schema) -> dict[str, str]:
    """What each column could be used for: image, bytes, text, texts, number or other."""
    return {field.name: _describe_type(field.type) for field in schema}


def _describe_type(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return "image" if {"bytes", "path"} & {field.name for field in kind} else "other"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    if _is_text(kind):
        return "text"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "texts" if _is_text(kind.value_type) else "other"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "other"


def _is_text(kind: pa.DataType) -> bool:
    views = pa.types.is_string_view(kind)
    return views or pa.types.is_string(kind) or pa.types.is_large_string(kind)
