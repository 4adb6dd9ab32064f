"""Helpers for the tests of sources: list one, read all of it, write one of each kind."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from data.sources import ImageRecord, Source
from data.sources.opening import SourceOptions, list_source, open_source
from data.sources.reader import ImageReader

NOTHING = SourceOptions()


def list_images(images: object, options: SourceOptions = NOTHING) -> tuple[Source, Any]:
    source = open_source(str(images), options)
    listing = list_source(source, options)
    return source, replace(listing, records=tuple(listing.records))


def read_all(source: Source, records: tuple[ImageRecord, ...]) -> list[bytes]:
    reader = ImageReader(Source.from_dict(json.loads(json.dumps(source.to_dict()))))
    try:
        return [reader.read(record.address) for record in records]
    finally:
        reader.close()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_table(path: Path, photos: dict[str, bytes], **columns: Any) -> None:
    images = [{"bytes": content, "path": name} for name, content in photos.items()]
    table = pa.table({"image": images, **columns})
    pq.write_table(table, path, row_group_size=4)


def make_dataset(photos: dict[str, bytes]) -> datasets.Dataset:
    rows = {
        "image": [{"bytes": content, "path": None} for content in photos.values()],
        "text": [f"of {name}" for name in photos],
    }
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict(rows, features=features)
