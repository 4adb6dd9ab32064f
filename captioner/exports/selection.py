"""Which rows of a captioning run are exported, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captioner.store.makers import share_makers
from data.dense.receipts import read_receipts
from data.dense.run import read_run
from data.dense.shards import iterate_rows, read_rows
from data.errors import UserError
from data.images import Status
from data.matching import find_rows
from data.sparse.released import ImageIds


@dataclass(frozen=True)
class Selection:
    """Rows of the run in `directory`: all in plan order, or those of `ids`, at `places`.

    `run` is its run.json. `only_ok` leaves out error rows, `limit` takes the first rows only.
    `notes` are for the user.
    """

    directory: Path
    run: Mapping[str, Any]
    ids: ImageIds | None = None
    places: Sequence[int] = ()
    notes: tuple[str, ...] = ()
    only_ok: bool = False
    limit: int | None = None

    def iterate(self) -> Iterator[pa.Table]:
        """Iterate over the rows in batches; can be called repeatedly.

        Raises:
            UserError: the run is damaged or unfinished, or an id has no row.
        """
        left = self.limit
        for table in self._iterate_ordered():
            if left == 0:
                return
            if self.only_ok:
                table = table.filter(pc.equal(table.column("status"), str(Status.OK)))
            if left is not None:
                table = table.slice(0, left)
                left -= table.num_rows
            if table.num_rows:
                yield table

    def batch(self, size: int) -> Iterator[pa.Table]:
        """The same rows, `size` at a time; the last may be fewer."""
        waiting: list[pa.Table] = []
        count = 0
        for table in self.iterate():
            waiting.append(table)
            count += table.num_rows
            if count < size:
                continue
            whole = pa.concat_tables(waiting)
            for start in range(0, count - count % size, size):
                yield whole.slice(start, size)
            waiting, count = [whole.slice(count - count % size)], count % size
        if count:
            yield pa.concat_tables(waiting)

    def count_statuses(self) -> dict[str, int]:
        """Rows by status, before any are left out."""
        counts: Counter[str] = Counter()
        for table in self._iterate_ordered(["status"]):
            counts.update(table.column("status").to_pylist())
        return dict(counts)

    def read_metadata(self) -> dict[str, str]:
        """The metadata of the run's shards; with `versions` only if all rows have the same."""
        found = []
        for _, receipt in sorted(read_receipts(self.directory).items()):
            metadata = pq.read_schema(self.directory / receipt.shard).metadata or {}
            found.append({key.decode(): value.decode() for key, value in metadata.items()})
        return share_makers(found) if found else {}

    def _iterate_ordered(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        if self.ids is None:
            yield from iterate_rows(self.directory, columns)
            return
        yield read_rows(self.directory, columns).take(self.places)


def select_rows(
    directory: Path,
    *,
    ids: ImageIds | None,
    mapping: Mapping[str, str] | None,
    only_ok: bool,
    limit: int | None,
) -> Selection:
    """The rows of a finished run.

    Raises:
        UserError: `directory` is not a run, an id has no row, or the mapping does not apply.
    """
    if mapping is not None and ids is None:
        raise UserError("--id-mapping maps the ids of --ids to files: specify both")
    run = read_run(directory)
    if ids is None:
        return Selection(directory, run, only_ok=only_ok, limit=limit)
    table = read_rows(directory, ["file_name", "image_id"])
    rows = [tuple(row.values()) for row in table.to_pylist()]
    places, notes = find_rows(ids.ids, mapping or {}, rows, where=str(directory))
    return Selection(directory, run, ids, places, notes, only_ok, limit)
