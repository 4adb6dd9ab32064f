"""From records to the table of a shard, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from captioner.llava.sampling import derive_seed
from captioner.store.journal import Record
from captioner.text.quality import assess
from data.dense.schema import CAPTION_SCHEMA
from data.sources import ImageRecord


def build_table(
    images: Sequence[ImageRecord],
    records: Mapping[str, Record],
    *,
    run_id: str,
    engine: str,
    run_seed: int | None,
) -> pa.Table:
    """One row per image of the plan, in its order; without `run_seed` nothing was drawn.

    Raises KeyError if a record is missing.
    """
    rows = []
    for image in images:
        record = records[image.sample_id]
        row = {**_build_row(image, record), "run_id": run_id, "engine": engine}
        if run_seed is not None:
            row["seed"] = derive_seed(run_seed, image.sample_id, attempt=record.attempt or 1)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=CAPTION_SCHEMA)


def _build_row(image: ImageRecord, record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {
        "sample_id": image.sample_id,
        "image_id": image.image_id,
        "file_name": image.file_name,
        "split": image.split,
        "width": record.width,
        "height": record.height,
        "image_sha256": record.image_sha256,
        "image_url": image.image_url,
        "caption": record.caption,
        "status": record.status,
        "error": record.error,
        "finish_reason": record.finish_reason,
        "prompt_tokens": record.prompt_tokens,
        "caption_tokens": record.caption_tokens,
        "captions": image.captions,
        "attempt": record.attempt,
        "trimmed": record.trimmed,
    }
    if record.caption is not None:
        found = assess(record.caption, record.finish_reason)
        row["caption_words"] = found.words
        row["flags"] = found.flags
        row["repetition"] = found.repetition
    return row


def read_records(table: pa.Table) -> dict[str, Record]:
    """The records that a finished shard was made of."""
    names = list(Record.__dataclass_fields__)
    return {row["sample_id"]: Record(**row) for row in table.select(names).to_pylist()}
