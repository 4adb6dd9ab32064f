"""The images that an index was made of, read only if they are still the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from data.dense.run import find_source
from data.escaping import show_name
from data.images import ImageError, Status
from data.sources.reader import SharedReader
from data.sources.record import ImageRecord, find_change
from pipelines.pages.kit.thumbnails import Address, find_place

_ROW = b"row:"  # images of a data set that are found by position

if TYPE_CHECKING:
    from vse.search.index import Index


class IndexedImages:
    """Reads the images of an index, also in several threads.

    `missing` says why there are none, if so.
    """

    def __init__(self, index: Index, *, images: Path | None) -> None:
        """`images`: their current folder; by default the recorded one."""
        self._reader: SharedReader | None = None
        self._lock = threading.Lock()
        self.missing: str | None = None
        self._checked = False
        if not index.info.source:
            self.missing = "the index does not record where its images are"
            self._checked = True
            return
        self._source = find_source({"source": index.info.source}, where=index.path, images=images)
        self._reader = SharedReader(self._source)
        if self._source.kind != "dataset":
            self._check()

    def _check(self) -> None:
        changed = find_change(self._source)
        if changed is not None:
            # Another image would be shown under the name and score of the indexed one.
            name = show_name(Path(changed).name)
            self.missing = f"{name} has changed since the index was written"

    def read(self, address: Address) -> bytes:
        """The bytes of one image. Raises ImageError."""
        # Of a data set, all files are read for this, and most have images that are found by name.
        with self._lock:
            if not self._checked and (address.locator or b"").startswith(_ROW):
                self._checked = True
                self._check()
        if self._reader is None or self.missing is not None:
            raise ImageError(Status.DECODE_ERROR, str(self.missing))
        return self._reader.read(ImageRecord("", address.file_name, find_place(address)))

    def close(self) -> None:
        """Close the files that were kept open."""
        if self._reader is not None:
            self._reader.close()
