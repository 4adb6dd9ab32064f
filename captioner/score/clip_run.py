"""CLIPScores of a whole run, shard by shard, so that an interrupted run can continue."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captioner.score.clip_model import ClipChoice, ClipEncoder, load_clip
from captioner.score.clip_score import CLIP_SCHEMA, PROMPT, ClipScore, ScoreTask, score_texts
from data.dense.images import find_locators, refuse_other
from data.dense.receipts import read_receipts
from data.files.atomic import replace_whole
from data.images import MAX_IMAGE_PIXELS
from data.sources import ImageRecord, Source
from data.sources.reader import SharedReader

PARTS_NAME = "scores.parts"
_ABOUT = b"d2s.scores.part"


@dataclass(frozen=True)
class ClipPass:
    """The settings of a pass.

    `images` is where the images of the run are; `batch_size` of them are scored at a time, and
    `workers` threads read and decode. `device` is torch's name; by default the GPU if there is one.
    Images of more than `max_pixels` are not scored.
    """

    choice: ClipChoice
    images: Source
    device: str | None = None
    batch_size: int = 32
    workers: int = 4
    max_pixels: int = MAX_IMAGE_PIXELS

    def describe(self) -> dict[str, Any]:
        """Everything that affects the scores."""
        return {**self.choice.describe(), "prompt": PROMPT}

    def locate_images(self) -> dict[str, Any]:
        """The source of the images, the same in every current folder."""
        root = self.images.root and os.path.abspath(self.images.root)
        return {**self.images.to_dict(), "root": root}


def measure_clip(
    directory: Path,
    texts: pa.Table,
    settings: ClipPass,
    *,
    keep_parts: bool,
    on_text: Callable[[int], None],
) -> tuple[pa.Table, dict[str, Any]]:
    """CLIPScores of the rows of `texts`, in order.

    Args:
        texts: sample_id, file_name, image_sha256 and caption of all rows of the run, or the first.
        keep_parts: keep finished shards in DIR/scores.parts until `drop_parts`, and reuse them.
        on_text: called with the number of finished rows.

    Returns:
        A table of CLIP_SCHEMA, and everything that affected it.

    Raises:
        UserError: the model cannot be loaded, or the disk is full.
    """
    about = settings.describe()
    # The hash of an imported row's image is unknown: other images are told by their source alone.
    origin = {**about, "images": settings.locate_images()}
    encoder: ClipEncoder | None = None
    locators = find_locators(directory, texts.column("sample_id").to_pylist())
    tables, done = [], 0
    with closing(SharedReader(settings.images)) as reader:
        for number, sha256, rows in _list_parts(directory, texts.num_rows):
            path = directory / PARTS_NAME / f"{number:05d}.parquet"
            key = json.dumps({**origin, "shard": sha256, "rows": rows}, sort_keys=True).encode()
            part = _read_part(path, key) if keep_parts else None
            open_rows = list(range(rows)) if part is None else _find_errors(part)
            if open_rows or part is None:
                encoder = encoder or load_clip(settings.choice, device=settings.device)
                chosen = texts.slice(done, rows).take(open_rows)
                tasks = _make_tasks(chosen, [locators[done + row] for row in open_rows], reader)
                before = done + rows - len(open_rows)
                scored = _score_part(encoder, tasks, settings, before=before, on_text=on_text)
                part = scored if part is None else _replace_rows(part, open_rows, scored)
                if keep_parts:
                    _write_part(path, part, key)
            tables.append(part)
            done += rows
            on_text(done)
    return pa.concat_tables([CLIP_SCHEMA.empty_table(), *tables]), about


def drop_parts(directory: Path) -> None:
    """Remove the parts kept by `measure_clip`, once the scores are written."""
    shutil.rmtree(directory / PARTS_NAME, ignore_errors=True)


def _list_parts(directory: Path, rows: int) -> Iterator[tuple[int, str, int]]:
    """Number, SHA-256 and rows of each shard among the first `rows` of the run."""
    receipts = read_receipts(directory)
    for index in sorted(receipts):
        if rows > 0:
            yield index, receipts[index].sha256, min(rows, receipts[index].rows)
        rows -= receipts[index].rows


def _make_tasks(
    texts: pa.Table, locators: Sequence[bytes | None], reader: SharedReader
) -> list[ScoreTask]:
    rows = texts.select(["sample_id", "file_name", "image_sha256", "caption"]).to_pylist()
    tasks = []
    for row, locator in zip(rows, locators, strict=True):
        image = ImageRecord(row["sample_id"], row["file_name"], locator)
        tasks.append(ScoreTask(row["caption"], partial(_read, reader, image, row["image_sha256"])))
    return tasks


def _read(reader: SharedReader, image: ImageRecord, sha256: str | None) -> bytes:
    return refuse_other(reader.read(image), sha256)


def _score_part(
    encoder: ClipEncoder,
    tasks: Sequence[ScoreTask],
    settings: ClipPass,
    *,
    before: int,
    on_text: Callable[[int], None],
) -> pa.Table:
    scores: list[ClipScore] = []
    for score in score_texts(
        encoder,
        tasks,
        batch_size=settings.batch_size,
        workers=settings.workers,
        max_pixels=settings.max_pixels,
    ):
        scores.append(score)
        on_text(before + len(scores))
    return pa.Table.from_pylist([score.to_row() for score in scores], schema=CLIP_SCHEMA)


def _read_part(path: Path, key: bytes) -> pa.Table | None:
    """A part with this key; None if there is none."""
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException):
        return None
    if (table.schema.metadata or {}).get(_ABOUT) != key or not table.schema.equals(CLIP_SCHEMA):
        return None
    return table.replace_schema_metadata(None)


def _find_errors(part: pa.Table) -> list[int]:
    """The rows whose image could not be read: it may be readable now."""
    errors = part.column("clip_error").to_pylist()
    return [row for row, error in enumerate(errors) if error is not None]


def _replace_rows(part: pa.Table, places: Sequence[int], rows: pa.Table) -> pa.Table:
    kept = part.to_pylist()
    for place, row in zip(places, rows.to_pylist(), strict=True):
        kept[place] = row
    return pa.Table.from_pylist(kept, schema=CLIP_SCHEMA)


def _write_part(path: Path, part: pa.Table, key: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with replace_whole(path) as temporary:
        pq.write_table(part.replace_schema_metadata({_ABOUT: key}), temporary, compression="zstd")
