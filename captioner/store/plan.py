"""The plan of a run: which images, in which order, in which shard. Written once, never changed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.dense.run import PLAN_NAME
from data.errors import UserError
from data.files.atomic import replace_whole
from data.sources import ImageRecord
from data.sources.records import PLAN_SCHEMA, RECORD_SCHEMA, Records

# So many rows are unpacked together; a row group of the file has some of these.
_ROWS_AT_A_TIME, _BATCHES_PER_GROUP = 8192, 8
_ABOUT = b"d2s.run"


class Plan:
    """Images in order; shard `i` has the rows from `i * shard_size` on."""

    def __init__(self, records: Sequence[ImageRecord], shard_size: int) -> None:
        """UserError if `shard_size` is not one; ValueError if two records are of one sample_id."""
        self.records = Records.collect(records)
        self.shard_size = shard_size
        if shard_size < 1:
            raise UserError(f"--shard-size must be at least 1, not {shard_size}")
        if self.records.find_repeat() is not None:
            raise ValueError("two images of the plan have the same sample_id")

    @property
    def shards(self) -> int:
        return -(-len(self.records) // self.shard_size)

    def select_shard(self, index: int) -> Records:
        """The images of one shard, in row order."""
        return self.records[index * self.shard_size : (index + 1) * self.shard_size]

    def list_ids(self, index: int) -> list[str]:
        """The sample_ids of one shard, in row order."""
        return self.select_shard(index).list_ids().to_pylist()

    def hash(self) -> str:
        """One hash of ids, order and shards."""
        total = hashlib.sha256(f"shard_size={self.shard_size}\n".encode())
        for batch in self.records.iterate_batches():
            total.update("".join(f"{name}\n" for name in batch.column(0).to_pylist()).encode())
        return total.hexdigest()


def write_plan(directory: Path, plan: Plan, *, about: Mapping[str, Any] | None = None) -> None:
    """Write plan.parquet atomically; `about` is what run.json could be rebuilt from.

    Raises:
        UserError: the disk is full.
    """
    schema = PLAN_SCHEMA.with_metadata({_ABOUT: json.dumps(about, sort_keys=True)})
    with (
        replace_whole(directory / PLAN_NAME) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        done = 0
        for batches in _group(plan.records.iterate_batches()):
            table = pa.Table.from_batches(batches)
            numbers = np.arange(done, done + len(table))
            table = table.append_column("shard", pa.array(numbers // plan.shard_size, pa.int32()))
            table = table.append_column("row", pa.array(numbers % plan.shard_size, pa.int32()))
            writer.write_table(table.select(schema.names).cast(schema))
            done += len(table)


def _group(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    while group := list(islice(batches, _BATCHES_PER_GROUP)):
        yield group


def read_about(directory: Path) -> dict[str, Any] | None:
    """What `write_plan` was told; None where it was told nothing, as by older versions."""
    metadata = pq.read_schema(directory / PLAN_NAME).metadata or {}
    about: dict[str, Any] | None = json.loads(metadata.get(_ABOUT, b"null"))
    return about


def read_plan(directory: Path, *, shard_size: int) -> Plan:
    """The plan of a run that was begun.

    Raises:
        UserError: it cannot be read.
    """
    path = directory / PLAN_NAME
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = RECORD_SCHEMA.names
            batches = file.iter_batches(_ROWS_AT_A_TIME, columns=names)
            records = Records.from_batches(batch.cast(RECORD_SCHEMA) for batch in batches)
        return Plan(records, shard_size)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"the plan {path} cannot be read: delete this file and run the same `d2s caption` "
            "command again, which plans the same images anew and keeps the rows"
        ) from error
