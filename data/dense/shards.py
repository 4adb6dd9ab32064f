"""Parquet shards of dense text: written atomically, verified, and read back in order."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.dense.receipts import Receipt, read_receipts
from data.dense.run import read_run
from data.dense.schema import CAPTION_SCHEMA, MORE_COLUMNS
from data.errors import UserError, first_line
from data.files.atomic import replace_whole
from data.files.hashes import hash_file
from data.images import Status

# About 2 KB per row: far below the 100 MB at which the Hub's viewer becomes slow.
_ROWS_PER_GROUP = 10_000
_NAME = re.compile(r"train-\d{5,}-of-\d{5,}\.parquet")


def name_shard(index: int, count: int) -> str:
    """`train-00012-of-00057.parquet`, the form the Hub expects."""
    return f"train-{index:05d}-of-{count:05d}.parquet"


def list_shards(directory: Path) -> list[Path]:
    """Files that have the name of a shard, whatever their content."""
    return [path for path in sorted(directory.glob("train-*.parquet")) if _NAME.match(path.name)]


def write_shard(path: Path, table: pa.Table, *, metadata: Mapping[str, str]) -> None:
    """Write `table` so that `path` exists if and only if it is complete.

    The columns are those of CAPTION_SCHEMA, followed by any others.

    The same table and metadata give the same bytes: no timestamps are written.

    Raises:
        UserError: the disk is full.
        ValueError: the file that was read back differs from the table (a bug or a disk error).
    """
    more = list(table.schema)[len(CAPTION_SCHEMA) :]
    schema = pa.schema([*CAPTION_SCHEMA, *more])
    table = table.cast(schema).replace_schema_metadata(dict(metadata))
    with replace_whole(path) as temporary:
        with temporary.open("wb") as sink:
            pq.write_table(
                table,
                sink,
                compression="zstd",
                row_group_size=_ROWS_PER_GROUP,
                write_page_index=True,
                write_page_checksum=True,
                use_content_defined_chunking=True,
            )
            sink.flush()
            os.fsync(sink.fileno())
        ids = table.column("sample_id").to_pylist()
        problem = find_shard_problem(temporary, sample_ids=ids, metadata=metadata, schema=schema)
        if problem:
            raise ValueError(
                f"{path}: what was written differs from what should have been written: {problem}"
            )


def find_shard_problem(
    path: Path,
    *,
    sample_ids: Sequence[str],
    metadata: Mapping[str, str],
    schema: pa.Schema = CAPTION_SCHEMA,
) -> str | None:
    """The reason why this file is not the shard of these samples and this run, or None.

    Every page is read and its checksum compared, to detect silent corruption.
    """
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        return f"it cannot be read ({first_line(error)})"
    if not table.schema.equals(schema):
        return "its columns are not those of this version"
    found = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if any(found.get(key) != value for key, value in metadata.items()):
        return "it was written by a run with other settings"
    if table.column("sample_id").to_pylist() != list(sample_ids):
        return f"its {table.num_rows} rows are not the {len(sample_ids)} rows of the plan"
    return None


def make_receipt(path: Path, *, index: int) -> Receipt:
    """Count and hash a finished shard."""
    statuses = pq.read_table(path, columns=["status"]).column("status")
    ok = pc.sum(pc.equal(statuses, str(Status.OK))).as_py() or 0
    return Receipt(
        shard=path.name,
        index=index,
        rows=len(statuses),
        errors=len(statuses) - ok,
        bytes=path.stat().st_size,
        sha256=hash_file(path),
    )


def read_rows(
    directory: Path, columns: Sequence[str] | None = None, *, allow_incomplete: bool = False
) -> pa.Table:
    """Read all finished shards as one table, in the order of the plan, checked against their
    receipts.

    With `allow_incomplete`, the finished shards are returned even if others are missing.

    Raises:
        UserError: no run, an unknown column, an unfinished run, or a missing or changed shard.
    """
    tables = list(iterate_rows(directory, columns, allow_incomplete=allow_incomplete))
    if not tables:
        names = CAPTION_SCHEMA.names if columns is None else columns
        known = [field for field in CAPTION_SCHEMA if field.name in names]
        tables = [pa.schema(known).empty_table()]
    return pa.concat_tables(tables)


def iterate_rows(
    directory: Path, columns: Sequence[str] | None = None, *, allow_incomplete: bool = False
) -> Iterator[pa.Table]:
    """`read_rows` shard by shard, for callers that do not need all rows at once."""
    run = read_run(directory)
    if not run.get("complete") and not allow_incomplete:
        raise UserError(
            f"the captions in {directory} are not complete: "
            "run the same `d2s caption` command again to finish them"
        )
    unknown = set(columns or ()) - {*CAPTION_SCHEMA.names, *MORE_COLUMNS}
    if unknown:
        raise UserError(f"no such column in the captions: {', '.join(sorted(unknown))}")
    receipts = read_receipts(directory)
    count = int(run["shards"])
    if not allow_incomplete and sorted(receipts) != list(range(count)):
        raise UserError(
            f"{directory} has receipts for {len(receipts)} of {count} shards: "
            "run the same `d2s caption` command again to finish it"
        )
    names = None if columns is None else list(columns)
    for index in sorted(receipts):
        # Each shard repeats the run's settings as metadata; run.json has them for the whole run.
        yield _read_checked(directory, receipts[index], names).replace_schema_metadata(None)


def _read_checked(directory: Path, receipt: Receipt, columns: list[str] | None) -> pa.Table:
    path = directory / receipt.shard
    if not path.is_file():
        raise UserError(
            f"{path} is missing: run the same `d2s caption` command again to rewrite it"
        )
    if hash_file(path) != receipt.sha256:
        raise UserError(
            f"{path} has changed since it was written (its SHA-256 differs from the receipt): "
            "delete it and run the same `d2s caption` command again"
        )
    return pq.read_table(path, columns=columns, partitioning=None)
