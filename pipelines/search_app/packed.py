"""Small pictures and texts of an index's images in files of their own, as a Space has them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.images import ImageError, Status
from pipelines.pages.review.view import Thumbnail
from pipelines.search_app.pictures import Pictures
from pipelines.search_app.texts import ImageTexts
from vse.search.index import Index

# Read together for one picture: half a megabyte.
_GROUP_ROWS = 32
_PICTURES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("jpeg", pa.binary()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("missing", pa.string()),
    ]
)
_TEXTS = pa.schema(
    [
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("dense", pa.string()),
        pa.field("captions", pa.list_(pa.string())),
    ]
)


class PackedPictures:
    """Reads what `write_pictures` wrote."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        ids = self._file.read(columns=["id"]).column(0).to_pylist()
        self._rows = {key: row for row, key in enumerate(ids)}
        self._lock = threading.Lock()

    def load(self, about: Mapping[str, Any]) -> Thumbnail:
        """The picture of a row of the index. Raises ImageError."""
        row = self._rows.get(about["id"])
        if row is None:
            raise ImageError(Status.DECODE_ERROR, "it is not among the pictures")
        group, place = divmod(row, _GROUP_ROWS)
        with self._lock:
            [found] = self._file.read_row_group(group).slice(place, 1).to_pylist()
        if found["jpeg"] is None:
            raise ImageError(Status.DECODE_ERROR, found["missing"])
        return Thumbnail(found["jpeg"], found["width"], found["height"])


def write_pictures(
    index: Index, pictures: Pictures, path: Path, *, on_row: Callable[[int], None]
) -> int:
    """Write the small picture of every row; returns how many there are none of.

    Args:
        on_row: gets how many rows are done.
    """
    missing = 0
    with pq.ParquetWriter(path, _PICTURES, compression="none") as writer:
        for start in range(0, len(index), _GROUP_ROWS):
            asked = range(start, min(start + _GROUP_ROWS, len(index)))
            rows = [_pack(about, pictures) for about in index.read_rows(asked)]
            missing += sum(row["jpeg"] is None for row in rows)
            table = pa.Table.from_pylist(rows, schema=_PICTURES)
            writer.write_table(table, row_group_size=_GROUP_ROWS)
            on_row(asked.stop)
    return missing


def write_packed_texts(texts: ImageTexts, file_names: Sequence[str], path: Path) -> int:
    """Write the texts of those images that have some; returns of how many."""
    rows = []
    for name in file_names:
        found = texts.find(name)
        if found.dense is not None or found.captions:
            captions = list(found.captions)
            rows.append({"file_name": name, "dense": found.dense, "captions": captions})
    pq.write_table(pa.Table.from_pylist(rows, schema=_TEXTS), path, compression="zstd")
    return len(rows)


def read_packed_texts(path: Path) -> ImageTexts:
    """The inverse of `write_packed_texts`."""
    rows = pq.read_table(path).to_pylist()
    return ImageTexts(
        {row["file_name"]: row["dense"] for row in rows if row["dense"] is not None},
        {row["file_name"]: tuple(row["captions"]) for row in rows if row["captions"]},
    )


def _pack(about: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_PICTURES.names)
    row["id"] = about["id"]
    try:
        found = pictures.load(about)
    except ImageError as error:
        return row | {"missing": str(error)}
    return row | {"jpeg": found.content, "width": found.width, "height": found.height}
