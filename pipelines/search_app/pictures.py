"""Thumbnails of an index's images: made from the files, or packed in a file for a Space."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from data.images import ImageError, Status
from pipelines.pages.kit.thumbnails import Address, Thumbnail, load_thumbnail
from pipelines.pages.search.images import IndexedImages
from vse.search.index import Index

# About 10 MB of JPEG.
_MOST_KEPT = 512
# Rows read at a time for one thumbnail: half a megabyte.
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


class Thumbnails(Protocol):
    """Thumbnails of the images of an index."""

    def load(self, about: Mapping[str, Any]) -> Thumbnail:
        """The thumbnail of a row from `Index.read_rows`. Raises ImageError."""
        ...


class SourceThumbnails:
    """Made from the indexed files, which are never sent themselves."""

    def __init__(self, index: Index, *, images: Path | None) -> None:
        """`images`: their current folder; by default the recorded one."""
        self._images = IndexedImages(index, images=images)
        self._kept: OrderedDict[tuple[str, bytes | None], Thumbnail] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def missing(self) -> str | None:
        """Why there are no pictures, if so."""
        return self._images.missing

    def load(self, about: Mapping[str, Any]) -> Thumbnail:
        """The thumbnail of a row. Raises ImageError."""
        name = about["file_name"] or about["id"]
        key = (name, about["locator"])
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            # Not under the lock: it may be fetched from a slow server.
            found = load_thumbnail(self._images.read(Address(*key)))
        except ImageError as error:
            raise ImageError(error.status, _strip_place(str(error))) from error
        with self._lock:
            self._kept[key] = found
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return found


class NoThumbnails:
    """For images that must not be shown."""

    def load(self, about: Mapping[str, Any]) -> Thumbnail:
        """Raises ImageError, always."""
        raise ImageError(Status.DECODE_ERROR, "the images are not shown here")


class PackedThumbnails:
    """Reads what `write_thumbnails` wrote."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        ids = self._file.read(columns=["id"]).column(0).to_pylist()
        self._rows = {key: row for row, key in enumerate(ids)}
        self._lock = threading.Lock()

    def load(self, about: Mapping[str, Any]) -> Thumbnail:
        """The thumbnail of a row of the index. Raises ImageError."""
        row = self._rows.get(about["id"])
        if row is None:
            raise ImageError(Status.DECODE_ERROR, "it is not among the pictures")
        group, place = divmod(row, _GROUP_ROWS)
        with self._lock:
            [found] = self._file.read_row_group(group).slice(place, 1).to_pylist()
        if found["jpeg"] is None:
            raise ImageError(Status.DECODE_ERROR, found["missing"])
        return Thumbnail(found["jpeg"], found["width"], found["height"])


def write_thumbnails(
    index: Index, pictures: Thumbnails, path: Path, *, on_row: Callable[[int], None]
) -> int:
    """Write the thumbnail of every row; returns the number of missing ones.

    Args:
        on_row: called with the number of finished rows.
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


def _strip_place(reason: str) -> str:
    """The reason without a path or an address, which the page would show to everyone."""
    kept = reason.rpartition(": ")[2] if "/" in reason else reason
    return "it cannot be read" if "/" in kept else kept


def _pack(about: Mapping[str, Any], pictures: Thumbnails) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_PICTURES.names)
    row["id"] = about["id"]
    try:
        found = pictures.load(about)
    except ImageError as error:
        return row | {"missing": str(error)}
    return row | {"jpeg": found.content, "width": found.width, "height": found.height}
