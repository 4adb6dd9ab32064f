"""Export to Parquet shards, optionally with the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captioner.exports.images import Pictures
from captioner.exports.selection import Selection
from data.dense.shards import name_shard, write_shard
from data.files.atomic import replace_folder
from data.images import Status

IMAGE_FIELD = pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))
# A row group of images stays below the 100 MB at which the Hub's viewer becomes slow.
_IMAGES_PER_GROUP, _BYTES_PER_GROUP = 100, 64_000_000


def write_parquet(
    selection: Selection,
    out: Path,
    *,
    shard_size: int,
    pictures: Pictures | None,
    overwrite: bool,
) -> int:
    """Write shards of `shard_size` rows to the folder `out`; returns the number of rows.

    With `pictures`, each row has its image as the Hub's Image feature; it is null in error rows and
    for lost images.

    Raises:
        UserError: the disk is full, a row or all images are not available, or `out` is not empty
            by the end and `overwrite` is not set.
    """
    metadata = selection.read_metadata()
    rows = 0
    with replace_folder(out, only_empty=not overwrite) as folder:
        parts = []
        for number, table in enumerate(selection.batch(shard_size)):
            # The number of shards, which is part of their names, is only known at the end.
            parts.append(folder / f"part-{number:05d}")
            if pictures is None:
                write_shard(parts[-1], table, metadata=metadata)
            else:
                _write_with_images(parts[-1], table, metadata, pictures)
            rows += table.num_rows
        if pictures is not None:
            pictures.refuse_none()
        for number, part in enumerate(parts):
            part.rename(folder / name_shard(number, len(parts)))
    return rows


def _write_with_images(
    path: Path, table: pa.Table, metadata: dict[str, str], pictures: Pictures
) -> None:
    schema = pa.schema([*table.schema, IMAGE_FIELD])
    schema = schema.with_metadata({**metadata, "huggingface": describe_features(schema)})
    options: dict[str, Any] = {"compression": "zstd", "write_page_index": True}
    with pq.ParquetWriter(
        path, schema, use_content_defined_chunking=True, write_page_checksum=True, **options
    ) as writer:
        while table.num_rows:
            images = _read_group(table, pictures)
            column = pa.array(images, IMAGE_FIELD.type)
            part = table.slice(0, len(images)).append_column(IMAGE_FIELD, column)
            writer.write_table(part.cast(schema))
            table = table.slice(len(images))


def _read_group(table: pa.Table, pictures: Pictures) -> list[dict[str, Any] | None]:
    """The images of the first rows, as many as a row group may have."""
    images: list[dict[str, Any] | None] = []
    size = 0
    for row in table.slice(0, _IMAGES_PER_GROUP).to_pylist():
        images.append(cell := _read_cell(row, pictures))
        size += 0 if cell is None else len(cell["bytes"])
        if size >= _BYTES_PER_GROUP:
            break
    return images


def _read_cell(row: dict[str, Any], pictures: Pictures) -> dict[str, Any] | None:
    if row["status"] != Status.OK:
        return None
    content = pictures.read(row)
    return None if content is None else {"bytes": content, "path": row["file_name"]}


def describe_features(schema: pa.Schema) -> str:
    """The `huggingface` metadata that declares `image` as an image to the datasets library."""
    import datasets

    features = datasets.Features.from_arrow_schema(schema)
    features["image"] = datasets.Image()
    return json.dumps({"info": {"features": features.to_dict()}})
