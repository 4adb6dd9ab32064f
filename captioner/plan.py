"""The plan of a run: which images, in which order, in which shard. Written once, never changed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.atomic import replace_whole
from data.errors import UserError
from data.schema import PLAN_SCHEMA
from data.shards import PLAN_NAME
from data.sources import ImageRecord


@dataclass(frozen=True)
class Plan:
    """Images in order; shard `i` has the rows from `i * shard_size` on."""

    records: Sequence[ImageRecord]
    shard_size: int

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise UserError(f"--shard-size must be at least 1, not {self.shard_size}")
        if len({record.sample_id for record in self.records}) != len(self.records):
            raise ValueError("two images of the plan have the same sample_id")

    @property
    def shards(self) -> int:
        return -(-len(self.records) // self.shard_size)

    def select_shard(self, index: int) -> Sequence[ImageRecord]:
        """The images of one shard, in row order."""
        return self.records[index * self.shard_size : (index + 1) * self.shard_size]

    def hash(self) -> str:
        """One hash of ids, order and shards."""
        total = hashlib.sha256(f"shard_size={self.shard_size}\n".encode())
        for record in self.records:
            total.update(f"{record.sample_id}\n".encode())
        return total.hexdigest()


def write_plan(directory: Path, plan: Plan) -> None:
    """Write plan.parquet atomically.

    Raises:
        UserError: the disk is full.
    """
    columns = {
        "sample_id": [record.sample_id for record in plan.records],
        "file_name": [record.file_name for record in plan.records],
        "locator": [record.locator for record in plan.records],
        "shard": [number // plan.shard_size for number in range(len(plan.records))],
        "row": [number % plan.shard_size for number in range(len(plan.records))],
        "image_id": [record.image_id for record in plan.records],
        "split": [record.split for record in plan.records],
        "image_url": [record.image_url for record in plan.records],
        "captions": [record.captions for record in plan.records],
    }
    table = pa.table(columns, schema=PLAN_SCHEMA)
    with replace_whole(directory / PLAN_NAME) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_plan(directory: Path, *, shard_size: int) -> Plan:
    """The plan of a run that was begun.

    Raises:
        UserError: it cannot be read.
    """
    path = directory / PLAN_NAME
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        names = [field.name for field in PLAN_SCHEMA if field.name not in ("shard", "row")]
        columns = [table.column(name).to_pylist() for name in names]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(
            f"the plan {path} cannot be read: give another --out, or delete {directory} to begin "
            "anew"
        ) from error
    records = []
    for values in zip(*columns, strict=True):
        fields = dict(zip(names, values, strict=True))
        captions = fields.pop("captions")
        records.append(
            ImageRecord(**fields, captions=None if captions is None else tuple(captions))
        )
    return Plan(records, shard_size)
