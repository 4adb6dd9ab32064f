"""From outcomes to the table of a shard, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from captioner.llava.sampling import derive_seed
from captioner.store.journal import Outcome
from captioner.store.makers import name_maker, read_makers
from captioner.text.cleaning import clean_text
from captioner.text.quality import assess
from data.dense.schema import CAPTION_SCHEMA
from data.sources import ImageRecord


def build_table(
    images: Sequence[ImageRecord],
    outcomes: Mapping[str, Outcome],
    *,
    run_id: str,
    engine: str,
    run_seed: int | None,
) -> pa.Table:
    """One row per image of the plan, in its order; without `run_seed` nothing was drawn.

    Raises KeyError if an outcome is missing.
    """
    rows = []
    for image in images:
        outcome = outcomes[image.sample_id]
        seed = derive_seed(run_seed, image.sample_id, attempt=outcome.attempt or 1)
        about = {"run_id": run_id, "engine": engine, "seed": seed}
        rows.append(_build_row(image, outcome) | about)
    return pa.Table.from_pylist(rows, schema=CAPTION_SCHEMA)


def _build_row(image: ImageRecord, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "sample_id": image.sample_id,
        "image_id": image.image_id,
        "file_name": image.file_name,
        "split": image.split,
        "width": outcome.width,
        "height": outcome.height,
        "image_sha256": outcome.image_sha256,
        "image_url": image.image_url,
        "caption": outcome.caption,
        "status": outcome.status,
        "error": None if outcome.error is None else clean_text(outcome.error),
        "finish_reason": outcome.finish_reason,
        "prompt_tokens": outcome.prompt_tokens,
        "caption_tokens": outcome.caption_tokens,
        "captions": image.captions,
        "attempt": outcome.attempt,
        "trimmed": outcome.trimmed,
    }
    if outcome.caption is not None:
        found = assess(outcome.caption, outcome.finish_reason)
        row["caption_words"] = found.words
        row["flags"] = found.flags
        row["repetition"] = found.repetition
    return row


def read_outcomes(table: pa.Table) -> dict[str, Outcome]:
    """The outcomes that a finished shard was made of, with those who made them."""
    names = [name for name in Outcome.__dataclass_fields__ if name != "made_by"]
    rows = table.select(names).to_pylist()
    for versions, numbers in read_makers(table.schema.metadata, table.num_rows):
        for number in numbers:
            rows[number]["made_by"] = name_maker(versions)
    return {row["sample_id"]: Outcome(**row) for row in rows}
