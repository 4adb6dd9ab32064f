"""What the Parquet footers of a run's shards say, which is what a card may claim of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# The Hub's viewer gives up near 286 MiB of a row group.
MOST_GROUP_BYTES = 200 * 2**20


@dataclass(frozen=True)
class Footers:
    """All shards together: rows, bytes uncompressed and of the files, the largest row group."""

    schema: pa.Schema
    rows: int
    bytes: int
    file_bytes: int
    largest_group: int


def read_footers(paths: Sequence[Path]) -> Footers:
    """Read and add up the footers.

    Raises:
        ValueError: the shards' schemas differ (`verify_run` would have said so).
    """
    rows = size = file_bytes = largest = 0
    schema: pa.Schema | None = None
    for path in paths:
        footer = pq.read_metadata(path)
        found = footer.schema.to_arrow_schema().remove_metadata()
        if schema is not None and not found.equals(schema):
            raise ValueError(f"{path} has other columns than the shards before it")
        schema = found
        groups = [footer.row_group(n).total_byte_size for n in range(footer.num_row_groups)]
        rows += footer.num_rows
        size += sum(groups)
        file_bytes += path.stat().st_size
        largest = max(largest, *groups) if groups else largest
    if schema is None:
        raise ValueError("there are no shards")
    return Footers(schema, rows, size, file_bytes, largest)
