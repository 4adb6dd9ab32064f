"""Small pictures of an index's images: read where the index says they lie, decoded, made small."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from data.dense.run import find_source
from data.images import ImageError, Status
from data.sources.reader import ImageReader
from pipelines.pages.kit.thumbnails import Address, load_thumbnail, read_picture
from pipelines.pages.review.view import Thumbnail
from vse.search.index import Index

# About 10 MB of JPEG.
_MOST_KEPT = 512


class Pictures(Protocol):
    """Small pictures of the images of an index."""

    def load(self, about: Mapping[str, Any]) -> Thumbnail:
        """The picture of a row, as `Index.read_rows` gives it. Raises ImageError."""
        ...


class SourcePictures:
    """Made of the files that the index was made of. The files themselves are never given out."""

    def __init__(self, index: Index, *, images: Path | None) -> None:
        """`images`: the folder where they are now; by default as the index recorded it."""
        source = index.info.source
        self._reader = (
            ImageReader(find_source({"source": source}, where=index.path, images=images))
            if source
            else None
        )
        self._kept: OrderedDict[tuple[str, bytes | None], Thumbnail] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, about: Mapping[str, Any]) -> Thumbnail:
        """The picture of a row. Raises ImageError."""
        if self._reader is None:
            raise ImageError(Status.DECODE_ERROR, "the index does not say where its images are")
        name = about["file_name"] or about["id"]
        key = (name, about["locator"])
        # The reader keeps files open, which is for one thread at a time.
        with self._lock:
            if key not in self._kept:
                content = read_picture(self._reader, Address(*key))
                self._kept[key] = load_thumbnail(content)
                if len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


class NoPictures:
    """Of images that may not be shown."""

    def load(self, about: Mapping[str, Any]) -> Thumbnail:
        """Raises ImageError, always."""
        raise ImageError(Status.DECODE_ERROR, "the images are not shown here")
