"""Writing a file of embeddings part by part, so that an interrupted run can continue."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError
from data.files.atomic import replace_whole
from vse.search.schema import IndexInfo, read_info

_PART = "d2s.part"
# Readers hold one row group at a time: 16 MB with 512 float32 values.
GROUP_ROWS = 8192
LEFT_OUT, CUT, CONTENT = "d2s.left_out", "d2s.texts_cut", "d2s.content_sha256"


@dataclass(frozen=True)
class Part:
    """Rows of the items `start` to `stop`.

    `left_out` are the items without a row; `cut` counts texts that were too long.
    """

    start: int
    stop: int
    table: pa.Table
    left_out: tuple[Mapping[str, str], ...] = ()
    cut: int = 0


def make_table(
    info: IndexInfo, columns: Mapping[str, Sequence[Any]], vectors: np.ndarray
) -> pa.Table:
    """Columns and vectors (N, D) as a table of `info.schema`; missing columns are null."""
    count = len(vectors)
    schema = info.schema
    values = pa.array(vectors.astype(info.stored).reshape(-1))
    embedding = pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type)
    arrays = [
        embedding if name == "embedding" else pa.array(columns.get(name, [None] * count), kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


class PartFolder:
    """FILE.parquet.parts: finished parts, until they are merged into FILE.parquet."""

    def __init__(self, target: Path, info: IndexInfo) -> None:
        self.target = target
        self.info = info
        self.path = _name_parts(target)

    def check(self) -> None:
        """UserError if there are parts of something else."""
        begun = read_begun(self.target)
        if begun is not None:
            refuse_other(begun, self.info, self.path)

    def read(self) -> Iterator[Part]:
        """The finished parts from the first item on, up to the first gap."""
        # Follow the names: there may be parts of another size from an earlier run.
        start = 0
        while (part := self._read(self._name(start))) is not None and part.stop > start:
            start = part.stop
            yield part

    def write(self, part: Part) -> None:
        """Keep a part."""
        self.path.mkdir(parents=True, exist_ok=True)
        about = {
            "start": part.start,
            "stop": part.stop,
            "left_out": list(part.left_out),
            "cut": part.cut,
        }
        metadata = {**self.info.to_metadata(), _PART: json.dumps(about)}
        schema = self.info.schema.with_metadata(metadata)
        with (
            replace_whole(self._name(part.start)) as temporary,
            open_writer(temporary, schema) as writer,
        ):
            writer.write_table(part.table, row_group_size=GROUP_ROWS)

    def drop_from(self, item: int) -> None:
        """Remove the parts that contain this item or later ones."""
        starts = [part.start for part in self.read() if part.stop > item]
        for start in starts:
            self._name(start).unlink()

    def finish(self, total: int) -> None:
        """Merge the parts into FILE.parquet and remove them.

        Raises:
            ValueError: the parts do not cover all `total` items.
        """
        left_out: list[Mapping[str, str]] = []
        stop, cut, content = 0, 0, hashlib.sha256()
        schema = self.info.schema.with_metadata(self.info.to_metadata())
        with (
            replace_whole(self.target) as temporary,
            open_writer(temporary, schema) as writer,
        ):
            for part in self.read():
                writer.write_table(part.table, row_group_size=GROUP_ROWS)
                stop, cut = part.stop, cut + part.cut
                left_out += part.left_out
                content.update(_read_bytes(part.table))
            if stop != total:
                raise ValueError(f"{self.path} ends at item {stop} of {total}")
            writer.add_key_value_metadata(
                {
                    LEFT_OUT: json.dumps([dict(entry) for entry in left_out]),
                    CUT: str(cut),
                    CONTENT: content.hexdigest(),
                }
            )
        shutil.rmtree(self.path, ignore_errors=True)

    def _name(self, start: int) -> Path:
        return self.path / f"{start:012d}.parquet"

    def _read(self, path: Path) -> Part | None:
        """A part, or None if it is missing or damaged: it is then embedded again."""
        try:
            table = pq.ParquetFile(path, page_checksum_verification=True).read()
            about = json.loads((table.schema.metadata or {})[_PART.encode()])
            part = Part(
                about["start"], about["stop"], table, tuple(about["left_out"]), about["cut"]
            )
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return None
        return part if table.schema.equals(self.info.schema) else None


def read_begun(target: Path) -> IndexInfo | None:
    """The metadata of the finished parts of `target`, or None; UserError if they are damaged."""
    for path in sorted(_name_parts(target).glob("*.parquet"))[:1]:
        return read_info(_read_schema(path), where=str(path))
    return None


def _name_parts(target: Path) -> Path:
    return target.with_name(f"{target.name}.parts")


def refuse_other(found: IndexInfo, wanted: IndexInfo, path: Path) -> None:
    """UserError if `found`, the metadata at `path`, differs from `wanted`."""
    changes = found.differences(wanted)
    if changes:
        raise UserError(
            f"{path} contains other embeddings (another {', '.join(changes)}): use another --out, "
            "or delete it"
        )


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a Parquet writer for an index."""
    # Vectors do not compress; texts and names do.
    plain = "embedding.list.element"
    packed = {name: "zstd" for name in schema.names if name != "embedding"}
    return pq.ParquetWriter(
        path,
        schema,
        compression={**packed, plain: "none"},
        use_dictionary=["image_id", "file_name"],
        write_page_checksum=True,
        write_statistics=False,
    )


def _read_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged: delete {path.parent} and start again") from error


def _read_bytes(table: pa.Table) -> bytes:
    """The contents on which a graph depends: ids and vectors."""
    ids = json.dumps(table.column("id").to_pylist()).encode()
    return ids + read_vectors(table.column("embedding")).tobytes()


def read_vectors(column: pa.ChunkedArray) -> np.ndarray:
    """The embedding column as (N, D), in its stored type."""
    width = column.type.list_size
    chunks = [chunk.flatten().to_numpy() for chunk in column.chunks]
    empty = np.zeros(0, dtype=column.type.value_type.to_pandas_dtype())
    return np.concatenate([*chunks, empty]).reshape(-1, width)
