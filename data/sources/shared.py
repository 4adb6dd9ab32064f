"""One reader of a source's images for many threads."""

import threading

from data.sources.reader import ImageReader
from data.sources.record import ImageRecord, Source

# A file or a download is a matter of its own; archives and tables keep files open.
_APART = (b"path:", b"url:")
_FILE_OF_THE_HUB, _IN_ARCHIVE = b"entry:", b"::"


class SharedReader:
    """An ImageReader for many threads: files and addresses at once, what is kept open in turn."""

    def __init__(self, source: Source) -> None:
        self._reader = ImageReader(source)
        self._lock = threading.Lock()

    def read(self, record: ImageRecord) -> bytes:
        """The bytes of one image. Raises ImageError."""
        address = record.address
        apart = address.startswith(_APART)
        if apart or (address.startswith(_FILE_OF_THE_HUB) and _IN_ARCHIVE not in address):
            return self._reader.read(address)
        with self._lock:
            return self._reader.read(address)

    def close(self) -> None:
        """Close the files that were kept open."""
        self._reader.close()
