"""The plan of a run: which images, in which order, in which shard.

Plans only grow. A run that grows (`--append`) has additions: more images after the others, in
separate shards, so that existing shards do not change.
"""

import contextlib
import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.dense.run import PLAN_NAME
from data.dense.shards import name_shard
from data.errors import UserError
from data.files.atomic import replace_whole
from data.sources import ImageRecord
from data.sources.records import PLAN_SCHEMA, RECORD_SCHEMA, Records

# This many rows are unpacked at a time; a row group of the file has several of these.
_ROWS_AT_A_TIME, _BATCHES_PER_GROUP = 8192, 8
_ABOUT, _ADDITIONS = b"d2s.run", b"d2s.additions"


@dataclass(frozen=True)
class Addition:
    """A number of images that were added later, and the settings that only apply to them."""

    images: int
    settings: Mapping[str, Any]


class Plan:
    """Images in order, in shards of `shard_size`; the last shard of each part can be smaller.

    The parts are the initial images and each addition.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        shard_size: int,
        additions: Iterable[Addition] = (),
    ) -> None:
        """`records` with those of the additions.

        Raises:
            UserError: an invalid `shard_size`.
            ValueError: two records have the same sample_id, or additions have more records than
                there are.
        """
        self.records = Records.collect(records)
        self.shard_size = shard_size
        self.additions = tuple(additions)
        if shard_size < 1:
            raise UserError(f"--shard-size must be at least 1, not {shard_size}")
        if self.records.find_repeat() is not None:
            raise ValueError("two images in the plan have the same sample_id")
        added = [addition.images for addition in self.additions]
        # Boundaries of the parts, in rows and in shards.
        self.bounds = tuple(accumulate(added, initial=len(self.records) - sum(added)))
        self.bounds = (0, *self.bounds)
        if min(added, default=1) < 1 or self.bounds[1] < 0:
            raise ValueError("the additions of the plan do not match its images")
        sizes = (-(-(stop - start) // shard_size) for start, stop in pairwise(self.bounds))
        self._shards = tuple(accumulate(sizes, initial=0))

    @property
    def shards(self) -> int:
        return self._shards[-1]

    def name_shard(self, index: int) -> str:
        """A shard's file name, which includes the number of shards when it was planned."""
        return name_shard(index, self._shards[self._find_part(index) + 1])

    def select_shard(self, index: int) -> Records:
        """The images of one shard, in row order."""
        part = self._find_part(index)
        start = self.bounds[part] + (index - self._shards[part]) * self.shard_size
        return self.records[start : min(start + self.shard_size, self.bounds[part + 1])]

    def list_ids(self, index: int) -> list[str]:
        """The sample_ids of one shard, in row order."""
        return self.select_shard(index).list_ids().to_pylist()

    def select_part(self, part: int) -> Records:
        """The initial images (part 0), or those of an addition."""
        return self.records[self.bounds[part] : self.bounds[part + 1]]

    def hash(self, part: int = 0) -> str:
        """One hash of ids, order and shards of a part."""
        return _hash(self.select_part(part), self.shard_size)

    def append(self, records: Records, settings: Mapping[str, Any]) -> "Plan":
        """This plan with an addition."""
        batches = chain(self.records.iterate_batches(), records.iterate_batches())
        about = {**settings, "plan": _hash(records, self.shard_size)}
        additions = (*self.additions, Addition(len(records), about))
        return Plan(Records.from_batches(batches), self.shard_size, additions)

    def number_rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shards of rows of the plan, and the row numbers within them."""
        parts = np.searchsorted(self.bounds, numbers, side="right") - 1
        shards, rows = np.divmod(numbers - np.take(self.bounds, parts), self.shard_size)
        return shards + np.take(self._shards, parts), rows

    def _find_part(self, index: int) -> int:
        return bisect_right(self._shards, index) - 1


def _hash(records: Records, shard_size: int) -> str:
    total = hashlib.sha256(f"shard_size={shard_size}\n".encode())
    for batch in records.iterate_batches():
        total.update("".join(f"{name}\n" for name in batch.column(0).to_pylist()).encode())
    return total.hexdigest()


def write_plan(directory: Path, plan: Plan, *, about: Mapping[str, Any] | None = None) -> None:
    """Write plan.parquet atomically; `about` is the information to rebuild run.json.

    Raises:
        UserError: the disk is full.
    """
    told = {_ABOUT: json.dumps(about, sort_keys=True)}
    if plan.additions:
        told[_ADDITIONS] = json.dumps([asdict(addition) for addition in plan.additions])
    schema = PLAN_SCHEMA.with_metadata(told)
    with (
        replace_whole(directory / PLAN_NAME) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        done = 0
        for batches in _group(plan.records.iterate_batches()):
            table = pa.Table.from_batches(batches)
            shards, rows = plan.number_rows(np.arange(done, done + len(table)))
            table = table.append_column("shard", pa.array(shards, pa.int32()))
            table = table.append_column("row", pa.array(rows, pa.int32()))
            writer.write_table(table.select(schema.names).cast(schema))
            done += len(table)


def _group(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    while group := list(islice(batches, _BATCHES_PER_GROUP)):
        yield group


def read_about(directory: Path) -> dict[str, Any] | None:
    """The `about` of `write_plan`; None if there was none, as in older versions.

    Raises:
        UserError: the plan cannot be read.
    """
    with _explain(directory / PLAN_NAME) as path:
        return _parse_about(pq.read_schema(path))


def _parse_about(schema: pa.Schema) -> dict[str, Any] | None:
    about: dict[str, Any] | None = json.loads((schema.metadata or {}).get(_ABOUT, b"null"))
    return about


def settle_plan(directory: Path, plan: Plan, *, about: Mapping[str, Any]) -> Plan:
    """Under the lock, write the plan of a growing run; return another owner's if it was first.

    Raises:
        UserError: as for `write_plan` and `read_plan`; or the existing plan has other archives or
            tables.
    """
    schema = pq.read_schema(directory / PLAN_NAME)
    there = _parse_additions(schema)
    if len(there) < len(plan.additions) and there == plan.additions[: len(there)]:
        write_plan(directory, plan, about=about)
        return plan
    if _list_stamps(_parse_about(schema) or about) != _list_stamps(about):
        # Images are located by the number of their file.
        raise UserError(
            f"another job has added other files of images to the run in {directory} meanwhile: "
            "run the same command again"
        )
    same = there == plan.additions
    return plan if same else read_plan(directory, shard_size=plan.shard_size)


def _list_stamps(about: Mapping[str, Any]) -> Any:
    return ((about.get("source") or {}).get("options") or {}).get("stamps")


def _parse_additions(schema: pa.Schema) -> tuple[Addition, ...]:
    return list_additions(json.loads((schema.metadata or {}).get(_ADDITIONS, b"[]")))


def list_additions(values: Iterable[Mapping[str, Any]]) -> tuple[Addition, ...]:
    """The additions as plain JSON."""
    return tuple(Addition(**value) for value in values)


def read_plan(directory: Path, *, shard_size: int) -> Plan:
    """The plan of an existing run.

    Raises:
        UserError: it cannot be read.
    """
    with (
        _explain(directory / PLAN_NAME) as path,
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        batches = file.iter_batches(_ROWS_AT_A_TIME, columns=RECORD_SCHEMA.names)
        records = Records.from_batches(batch.cast(RECORD_SCHEMA) for batch in batches)
        return Plan(records, shard_size, _parse_additions(file.schema_arrow))


@contextlib.contextmanager
def _explain(path: Path) -> Iterator[Path]:
    try:
        yield path
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the plan {path} cannot be read: delete this file and run the same `d2s caption` "
            "command again; it plans the same images and keeps the rows"
        ) from error
