"""The columns are a promise to readers: this is the promise, written once more."""

import pyarrow as pa

from data.dense.schema import CAPTION_SCHEMA
from data.sources.records import PLAN_SCHEMA

PROMISED = {
    "sample_id": pa.string(),
    "image_id": pa.string(),
    "file_name": pa.string(),
    "split": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "image_sha256": pa.string(),
    "image_url": pa.string(),
    "caption": pa.string(),
    "status": pa.string(),
    "error": pa.string(),
    "finish_reason": pa.string(),
    "prompt_tokens": pa.int32(),
    "caption_tokens": pa.int32(),
    "caption_words": pa.int32(),
    "flags": pa.list_(pa.string()),
    "repetition": pa.float32(),
    "seed": pa.int64(),
    "run_id": pa.string(),
    "engine": pa.string(),
    "captions": pa.list_(pa.string()),
    "attempt": pa.int32(),
    "trimmed": pa.bool_(),
}


def test_caption_columns() -> None:
    assert {field.name: field.type for field in CAPTION_SCHEMA} == PROMISED
    assert CAPTION_SCHEMA.names == list(PROMISED)


def test_what_every_row_has() -> None:
    always = {field.name for field in CAPTION_SCHEMA if not field.nullable}
    assert always == {"sample_id", "file_name", "status", "run_id", "engine"}


def test_the_plan_can_carry_what_a_source_knows() -> None:
    shared = {"image_id", "split", "image_url", "captions", "sample_id", "file_name"}
    for name in shared:
        assert PLAN_SCHEMA.field(name).type == CAPTION_SCHEMA.field(name).type
