"""Reading the bytes of an image from any kind of source.

Decoding processes run this module: files only need the standard library; the libraries of other
kinds are imported when the first image of that kind is read.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from data.images import MAX_FILE_BYTES, ImageError, Status, read_file
from data.sources.download import WebAddress
from data.sources.record import ImageRecord, Source

if TYPE_CHECKING:
    from data.sources.dataset import Rows
    from data.sources.table import TableReader
# Number of files of a source that are kept open; a data set may have thousands.
_MOST_OPEN = 8
# Plain files are independent; archives and tables keep files open.
_APART = (b"path:", b"url:")
_FILE_OF_THE_HUB, _IN_ARCHIVE = b"entry:", b"::"


class ImageReader:
    """Reads the images of one source by their address (`ImageRecord.address`)."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tars: dict[int, int] = {}
        self._tables: TableReader | None = None
        self._rows: Rows | None = None
        self._schemes: dict[bytes, Callable[[bytes], bytes | WebAddress]] = {
            b"path": self._read_path,
            b"url": self._read_url,
            b"tar": self._read_tar,
            b"parquet": self._read_parquet,
            b"row": self._read_row,
            b"entry": self._read_entry,
        }

    def read(self, address: bytes) -> bytes:
        """The bytes of one image file.

        Raises:
            ImageError: they are not available; the message becomes the row's `error`.
        """
        return fetch_found(self.find(address))

    def find(self, address: bytes) -> bytes | WebAddress:
        """The bytes of one image file, or where they can be fetched.

        Raises:
            ImageError: as for `read`.
        """
        scheme, _, rest = address.partition(b":")
        if scheme not in self._schemes:
            raise ImageError(Status.DECODE_ERROR, "its plan has an address of an unknown kind")
        try:
            content = self._schemes[scheme](rest)
        except (UserError, ImageError) as error:
            # A UserError affects the whole source: its file or server is gone.
            status = error.status if isinstance(error, ImageError) else Status.DECODE_ERROR
            raise ImageError(status, self._drop_folders(str(error))) from error
        return content if isinstance(content, WebAddress) else refuse_empty(content)

    def _drop_folders(self, message: str) -> str:
        """A message for a row, which may be published: files are named without their folder."""
        options = self._source.options
        paths = [*options.get("files", ()), options.get("name") or ""]
        for folder in {os.path.dirname(path) for path in paths if os.path.isabs(path)}:
            message = message.replace(f"{folder}/", "")
        return message

    def close(self) -> None:
        """Close the files that were kept open."""
        for number in tuple(self._tars):
            self._close_tar(number)
        for reader in (self._tables, self._rows):
            if reader is not None:
                reader.close()
        self._tables = self._rows = None

    def _read_path(self, path: bytes) -> bytes:
        return read_file(Path(os.path.join(self._source.root, os.fsdecode(path))))

    def _read_url(self, url: bytes) -> WebAddress:
        return name_url(url)

    def _read_tar(self, place: bytes) -> bytes:
        """`number of the file : offset : size`; a tar file is not compressed."""
        number, offset, size = (int(part) for part in place.split(b":"))
        if size > MAX_FILE_BYTES:
            raise ImageError(Status.TOO_LARGE, f"{size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
        path = self._source.options["files"][number]
        try:
            content = self._read_at(number, offset, size)
        except OSError as error:
            message = f"{path}: {error.strerror}"
            raise ImageError(Status.DECODE_ERROR, message) from error
        if len(content) < size:
            raise ImageError(Status.DECODE_ERROR, f"{path} is cut off, or is shorter than before")
        return content

    def _read_at(self, number: int, offset: int, size: int) -> bytes:
        if number in self._tars:
            try:
                return os.pread(self._tars[number], size, offset)
            except OSError:
                # After the restart of a file server it stays stale, but a new one is not.
                self._close_tar(number)
        if len(self._tars) >= _MOST_OPEN:
            self._close_tar(next(iter(self._tars)))
        path = self._source.options["files"][number]
        self._tars[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._tars[number], size, offset)

    def _close_tar(self, number: int) -> None:
        # Closing can report the same error again; the descriptor is free all the same.
        with contextlib.suppress(OSError):
            os.close(self._tars.pop(number))

    def _read_parquet(self, place: bytes) -> bytes | WebAddress:
        """`number of the file : row group : row in it`."""
        if self._tables is None:
            from data.sources.table import TableReader

            self._tables = TableReader(self._source)
        number, group, row = (int(part) for part in place.split(b":"))
        return self._tables.find(number, group, row)

    def _read_row(self, place: bytes) -> bytes | WebAddress:
        return self._open_rows().find(int(place))

    def _read_entry(self, place: bytes) -> bytes | WebAddress:
        """A file in a data set's own repository or folder."""
        return self._open_rows().read_entry(os.fsdecode(place))

    def _open_rows(self) -> "Rows":
        if self._rows is None:
            from data.sources.dataset import Rows

            self._rows = Rows(self._source)
        return self._rows


def stream_images(
    source: Source, wanted: Iterator[int]
) -> Iterator[bytes | WebAddress | ImageError]:
    """The images of the rows `wanted`; one pass over a streamed data set if they ascend.

    Raises:
        UserError: the data set can no longer be read.
    """
    from data.sources.dataset import Rows

    with contextlib.closing(Rows(source)) as rows:
        for row in wanted:
            try:
                yield rows.find(row)
            except ImageError as error:
                yield error


def name_url(url: bytes) -> WebAddress:
    """The URL of an address, which the user gave; bytes that are not UTF-8 are kept."""
    return WebAddress(url.decode("utf-8", "surrogateescape"), named=True)


def fetch_found(found: bytes | WebAddress) -> bytes:
    """Fetch what `ImageReader.find` returned, if necessary. Raises ImageError."""
    return refuse_empty(found.fetch()) if isinstance(found, WebAddress) else found


def refuse_empty(content: bytes) -> bytes:
    """The bytes of a file. Raises ImageError if there are none."""
    if not content:
        raise ImageError(Status.DECODE_ERROR, "the file is empty")
    return content


class SharedReader:
    """A thread-safe ImageReader: files and URLs are read concurrently, open archives in turn."""

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
            found = self._reader.find(address)
        return fetch_found(found)

    def close(self) -> None:
        """Close the files that were kept open."""
        self._reader.close()
