"""A captioning run written by hand, so that a test decides what every row says."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from captioner.text.quality import count_words, flag_caption, measure_repetition
from data.dense.receipts import append_receipt
from data.dense.schema import CAPTION_SCHEMA
from data.dense.shards import make_receipt, name_shard, write_shard
from data.sources.records import PLAN_SCHEMA
from pipelines import cli

PROMPT = "Describe this image in detail."
DENSE_TEXT = "A brown dog runs over a wide green field while two children watch it from the fence."
HOSTILE_NAME = '../</script><img src=x onerror="pwn()">\n\u202egpj.x.jpg'
HOSTILE_TEXT = (
    "</p></script><script>window.pwned = 1</script><!-- \u2028 \"quoted\" & 'so' {{ 7*7 }}"
    "<img src=x onerror=window.pwned=2>"
)


def review(*arguments: object) -> int:
    """`d2s review` with these arguments; returns its exit code."""
    return cli.run(["review", *(str(argument) for argument in arguments)])


def text_row(name: str, caption: str, **changed: Any) -> dict[str, Any]:
    """A row with a text; its flags and figures are the captioner's own unless given."""
    return {
        **_row(name, "ok"),
        "caption": caption,
        "finish_reason": "stop",
        "caption_tokens": len(caption.split()) + 1,
        "caption_words": count_words(caption),
        "flags": flag_caption(caption, finish_reason="stop"),
        "repetition": measure_repetition(caption),
        "attempt": 1,
        "trimmed": False,
        **changed,
    }


def error_row(name: str, error: str, *, status: str = "decode_error") -> dict[str, Any]:
    """A row that says why there is no text."""
    return {**_row(name, status), "error": error}


def write_run(
    directory: Path, rows: list[dict[str, Any]], *, images: Path, missing: int = 0, **changed: Any
) -> None:
    """One shard with `rows`; `missing` more images are planned, in a second shard not there yet."""
    directory.mkdir(parents=True, exist_ok=True)
    count = 2 if missing else 1
    table = pa.Table.from_pylist(rows, schema=CAPTION_SCHEMA)
    path = directory / name_shard(0, count)
    write_shard(path, table, metadata={})
    append_receipt(directory, make_receipt(path, index=0))
    planned = [
        {key: row[key] for key in ("sample_id", "file_name")} | {"shard": 0, "row": number}
        for number, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(planned, schema=PLAN_SCHEMA), directory / "plan.parquet")
    run = {
        "complete": not missing,
        "shards": count,
        "planned": len(rows) + missing,
        "images": str(images),
        "model": "llava-hf/llava-1.5-7b-hf",
        "revision": "0123abc",
        "prompt": PROMPT,
        "settings": {"sampling": {"temperature": 0.2, "top_p": 0.9, "max_tokens": 512}},
        "sessions": {"count": 1, "generated": len(rows), "seconds": 2.0},
        **changed,
    }
    (directory / "run.json").write_text(json.dumps(run))


def write_photo(path: Path, *, size: tuple[int, int] = (60, 40), colour: str = "teal") -> None:
    """A JPEG of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "JPEG")


def write_example(folder: Path) -> Path:
    """photos/ and a run of six rows: three texts with pictures, one without, two errors."""
    for name in ("good.jpg", "cut.jpg", "loop.jpg"):
        write_photo(folder / "photos" / name)
    rows = [
        text_row("good.jpg", DENSE_TEXT, captions=["a dog", "a dog & <b>kids</b>"]),
        error_row("text.jpg", "not an image in a known format"),
        text_row("cut.jpg", DENSE_TEXT[:-6], trimmed=True, attempt=2),
        text_row("loop.jpg", "The man wears a red hat. " * 6),
        text_row("gone.jpg", DENSE_TEXT + " It is late."),
        error_row("huge.png", "20,000 x 20,000 pixels", status="too_large"),
    ]
    run = folder / "dense" / "photos"
    write_run(run, rows, images=folder / "photos")
    return run


def write_hostile(folder: Path) -> Path:
    """A run in which everything that is not ours is markup, and one picture."""
    write_photo(folder / "photos" / "a.jpg")
    rows = [
        text_row(HOSTILE_NAME, HOSTILE_TEXT, captions=[HOSTILE_TEXT], flags=["<script>", "a b"]),
        text_row("a.jpg", f"\u202e{HOSTILE_TEXT}"),
        error_row('"onload="pwn()', HOSTILE_TEXT, status="<script>"),
    ]
    evil = {"model": HOSTILE_TEXT, "prompt": HOSTILE_TEXT, "revision": "\udcff", "flags": "<!--"}
    run = folder / "dense" / "<script>pwn()<"
    write_run(run, rows, images=folder / "photos", **evil)
    return run


def _row(name: str, status: str) -> dict[str, Any]:
    return {
        "sample_id": f"id of {name}",
        "file_name": name,
        "status": status,
        "width": 60,
        "height": 40,
        "run_id": "run",
        "engine": "scripted",
    }
