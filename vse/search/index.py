"""Reading a finished file of embeddings: vectors by block, and single rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError, first_line
from vse.runs.models import ModelIdentity
from vse.search.parts import CONTENT, CUT, LEFT_OUT, open_writer, read_vectors
from vse.search.schema import IndexInfo, read_info


class Index:
    """Embeddings in a Parquet file; only the footer is read at first.

    `content` is a hash of ids and vectors, `left_out` has items that could not be embedded, with
    reasons, and `cut` is the number of texts that were too long.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError if it does not exist or was not written by d2s."""
        self.path = path
        if not path.is_file():
            raise UserError(f"the index {path} does not exist: create one with `d2s embed`")
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{path} is not a Parquet file ({first_line(error)}): create it with `d2s embed`"
            ) from error
        self.info: IndexInfo = read_info(self._file.schema_arrow, where=str(path))
        # Written after the rows, so not in the schema.
        ending = self._file.metadata.metadata
        self.content = ending.get(CONTENT.encode(), b"").decode()
        self.cut = int(ending.get(CUT.encode(), b"0"))
        self.left_out: tuple[Mapping[str, str], ...] = tuple(
            json.loads(ending.get(LEFT_OUT.encode(), b"[]"))
        )

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def check_model(self, model: ModelIdentity) -> None:
        """UserError if the index was made with another model."""
        info = self.info
        if model.fingerprint == info.fingerprint:
            return
        if Path(model.name) == Path(info.model):
            raise UserError(
                f"{model.name} has changed since {self.path} was made by it: embed again with "
                f"`d2s embed --model {model.name} --out NEW.parquet`, or delete {self.path} first"
            )
        same = model.weights_sha256 == info.weights_sha256
        what = "the same weights with other settings" if same else "another model"
        raise UserError(
            f"{self.path} was made by {what} ({info.model}, weights {info.weights_sha256[:12]}) "
            f"than {model.name} (weights {model.weights_sha256[:12]}): search with --model "
            f"{info.model}, or embed again with `d2s embed --model {model.name}`"
        )

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, vectors (n, D) float32), in order, at most GROUP_ROWS at a time."""
        start = 0
        # By row group: `iter_batches` keeps everything it has read until the end of the file.
        for number in range(self._file.num_row_groups):
            group = self._read_group(number, ["embedding"])
            vectors = read_vectors(group.column(0)).astype(np.float32, copy=False)
            yield start, vectors
            start += len(vectors)

    def read_rows(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Everything but the vectors of some rows, in the given order."""
        names = [name for name in self._file.schema_arrow.names if name != "embedding"]
        found: list[dict[str, Any]] = [{}] * len(rows)
        for places, table in self._take(rows, names):
            for place, row in zip(places, table.to_pylist(), strict=True):
                found[place] = row
        return found

    def read_vectors(self, rows: Sequence[int]) -> np.ndarray:
        """The vectors of some rows, in the given order, (N, D) float32."""
        found = np.empty((len(rows), self.info.width), dtype=np.float32)
        for places, table in self._take(rows, ["embedding"]):
            found[places] = read_vectors(table.column(0))
        return found

    def _take(
        self, rows: Sequence[int], columns: list[str]
    ) -> Iterator[tuple[list[int], pa.Table]]:
        """For each row group, the positions in `rows` of its rows, and those rows."""
        start = 0
        for number in range(self._file.num_row_groups):
            stop = start + self._file.metadata.row_group(number).num_rows
            places = [place for place, row in enumerate(rows) if start <= row < stop]
            if places:
                table = self._read_group(number, columns)
                yield places, table.take([rows[place] - start for place in places])
            start = stop

    def read_file_names(self) -> list[str | None]:
        """The file name of each row's image, if the source had one."""
        groups = range(self._file.num_row_groups)
        tables = (self._read_group(number, ["file_name"]) for number in groups)
        return [name for table in tables for name in table.column(0).to_pylist()]

    def _read_group(self, number: int, columns: list[str] | None) -> pa.Table:
        """Raises UserError if it is damaged."""
        try:
            return self._file.read_row_group(number, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{self.path} is damaged ({first_line(error)}): delete it, and write it again with "
                "`d2s embed`"
            ) from error


def write_shared(index: Index, path: Path, *, model: str, names: Mapping[str, str]) -> None:
    """Write the index without local paths; the same index gives the same bytes.

    Args:
        model: the model's name where the index will be used.
        names: new file names by old ones; others are kept.
    """
    info = replace(index.info, model=model, given=Path(index.info.given).name, source={})
    schema = info.schema.with_metadata(info.to_metadata())
    nowhere, named = (schema.get_field_index(name) for name in ("locator", "file_name"))
    with open_writer(path, schema) as writer:
        for number in range(index._file.num_row_groups):
            group = index._read_group(number, None)
            # Positions in local archives are useless elsewhere.
            blank = pa.nulls(len(group), pa.binary())
            group = group.set_column(nowhere, schema.field(nowhere), blank)
            kept = [names.get(name, name) for name in group.column(named).to_pylist()]
            group = group.set_column(named, schema.field(named), pa.array(kept, pa.string()))
            writer.write_table(group.cast(schema), row_group_size=max(1, len(group)))
        writer.add_key_value_metadata({LEFT_OUT: "[]", CUT: str(index.cut), CONTENT: index.content})
