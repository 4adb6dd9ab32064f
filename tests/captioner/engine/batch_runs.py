"""Runs of files of requests: a folder of images that can be told apart, and what comes of them."""

from pathlib import Path
from typing import Any

from PIL import Image

from captioner.run.session import CaptionResult, caption
from data.dense.shards import read_rows

COUNT = 23
ALL = list(range(1, COUNT + 1))


def write_colors(folder: Path) -> Path:
    """Flat colors, which stay what they are when an image is resized."""
    folder.mkdir()
    for number in ALL:
        Image.new("RGB", (30, 24), (0, 0, number)).save(folder / f"{number:02d} '\"é.png")
    return folder


def run(images: Path, events: list[str] | None = None, **options: Any) -> CaptionResult:
    settings = {"model": "tiny", "out": images.parent / "out", "aspect": "squash", "shard_size": 5}
    settings |= {"batch_file": images.parent / "requests"}
    said: list[str] = [] if events is None else events
    return caption(images=images, on_event=said.append, **{**settings, **options})


def captions(images: Path) -> list[str | None]:
    return [row["caption"] for row in read_rows(images.parent / "out").to_pylist()]


def shard_bytes(folder: Path) -> dict[str, bytes]:
    paths = [*folder.glob("*.parquet"), folder / "receipts.jsonl"]
    return {path.name: path.read_bytes() for path in paths}
