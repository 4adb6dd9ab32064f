"""Converting outcomes to the table of a shard, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from captioner.llava.answer import Answer
from captioner.llava.sampling import derive_seed
from captioner.store.journal import Outcome, make_key
from captioner.store.makers import name_maker, read_makers
from captioner.store.row_form import RowForm
from captioner.text.cleaning import clean_text
from captioner.text.quality import assess
from data.sources import ImageRecord

_PLAIN = RowForm()


def build_table(
    images: Sequence[ImageRecord],
    outcomes: Mapping[str, Outcome],
    *,
    run_id: str,
    engine: str,
    run_seed: int | None,
    form: RowForm = _PLAIN,
) -> pa.Table:
    """Build one row per planned image and sample, in order; `run_seed` is None without seeds.

    Raises KeyError if an outcome is missing.
    """
    rows = []
    for image in images:
        for sample in form.numbers:
            outcome = outcomes[make_key(image.sample_id, sample)]
            named = form.name_request(outcome.key)
            seed = derive_seed(run_seed, named, attempt=outcome.attempt or 1)
            about = {"run_id": run_id, "engine": engine, "seed": seed}
            about |= {"text_name": form.name, "sample": sample}
            rows.append(_build_row(image, outcome, form.answer) | about)
    return pa.Table.from_pylist(rows, schema=form.schema)


def _build_row(image: ImageRecord, outcome: Outcome, answer: Answer | None) -> dict[str, Any]:
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
        reason = "length" if outcome.truncated else outcome.finish_reason
        found = assess(outcome.caption, reason)
        row["caption_words"] = found.words
        # Flags are for prose.
        row["flags"] = found.flags if answer is None else []
        row["repetition"] = found.repetition
        row["answer"] = answer.parse(outcome.caption) if answer is not None else None
    return row


def read_outcomes(table: pa.Table) -> dict[str, Outcome]:
    """The outcomes in a finished shard, with their makers."""
    names = [name for name in Outcome.__dataclass_fields__ if name in table.column_names]
    rows = table.select(names).to_pylist()
    for versions, numbers in read_makers(table.schema.metadata, table.num_rows):
        for number in numbers:
            rows[number]["made_by"] = name_maker(versions)
    for row, flags in zip(rows, table.column("flags").to_pylist(), strict=True):
        row["truncated"] = True if row["trimmed"] and "truncated" in flags else None
    outcomes = (Outcome(**row) for row in rows)
    return {outcome.key: outcome for outcome in outcomes}
