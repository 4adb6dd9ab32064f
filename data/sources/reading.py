"""The bytes of an image, wherever its source keeps them.

This is what a decoding process runs: a file needs nothing but the standard library, and the
libraries of the other kinds are imported when the first image of that kind is asked for.
"""

import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.images import MAX_FILE_BYTES, ImageError, read_file
from data.sources.record import Source
from data.status import Status

if TYPE_CHECKING:
    from data.sources.dataset import Rows
    from data.sources.table import TableReader

# Together well below the time after which a decoding process is taken for hung.
_TRIES, _TIMEOUT_SECONDS = 4, 15.0
# Worth a second try: too many requests, and what servers answer when they are not well.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT_SECONDS = 15.0
# Files of a source that are kept open; a data set may have thousands.
_MOST_OPEN = 8
# What an address may hold as it is; the rest is escaped.
_SAFE = "%/:=&?~#+!$,;'@()*[]"


class ImageReader:
    """Reads the images of one source by their address (`ImageRecord.address`)."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tars: dict[int, int] = {}
        self._tables: TableReader | None = None
        self._rows: Rows | None = None
        self._schemes: dict[bytes, Callable[[bytes], bytes]] = {
            b"path": self._read_path,
            b"url": self._read_url,
            b"tar": self._read_tar,
            b"parquet": self._read_parquet,
            b"row": self._read_row,
        }

    def read(self, address: bytes) -> bytes:
        """The bytes of one image file.

        Raises:
            ImageError: they cannot be had; the text goes into the row's `error`.
        """
        scheme, _, rest = address.partition(b":")
        if scheme not in self._schemes:
            raise ImageError(Status.DECODE_ERROR, "its plan names a place of no known kind")
        try:
            content = self._schemes[scheme](rest)
        except UserError as error:
            raise ImageError(Status.DECODE_ERROR, str(error)) from error
        if not content:
            raise ImageError(Status.DECODE_ERROR, "the file is empty")
        return content

    def close(self) -> None:
        """Close the files that were kept open."""
        for descriptor in self._tars.values():
            os.close(descriptor)
        self._tars.clear()

    def _read_path(self, path: bytes) -> bytes:
        return read_file(Path(os.path.join(self._source.root, os.fsdecode(path))))

    def _read_url(self, url: bytes) -> bytes:
        return fetch_url(url.decode())

    def _read_tar(self, place: bytes) -> bytes:
        """`number of the file : offset : size`; a tar file is not compressed."""
        number, offset, size = (int(part) for part in place.split(b":"))
        if size > MAX_FILE_BYTES:
            raise ImageError(Status.TOO_LARGE, f"{size:,} bytes, over the {MAX_FILE_BYTES:,}")
        path = self._source.options["files"][number]
        try:
            if number not in self._tars:
                if len(self._tars) >= _MOST_OPEN:
                    os.close(self._tars.pop(next(iter(self._tars))))
                self._tars[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            content = os.pread(self._tars[number], size, offset)
        except OSError as error:
            raise ImageError(Status.DECODE_ERROR, f"{path}: {error.strerror}") from error
        if len(content) < size:
            raise ImageError(Status.DECODE_ERROR, f"{path} is shorter than it was")
        return content

    def _read_parquet(self, place: bytes) -> bytes:
        """`number of the file : row group : row in it`."""
        if self._tables is None:
            from data.sources.table import TableReader

            self._tables = TableReader(self._source)
        number, group, row = (int(part) for part in place.split(b":"))
        return self._tables.read(number, group, row)

    def _read_row(self, place: bytes) -> bytes:
        if self._rows is None:
            from data.sources.dataset import Rows

            self._rows = Rows(self._source)
        return self._rows.read(int(place))


def read_cell(cell: Any, *, folders: Sequence[str] = ()) -> bytes:
    """The bytes of an image column's cell: bytes, a path, or {"bytes", "path"} as datasets has it.

    A path is read only below one of `folders`, a relative one below the first: a table from
    elsewhere must not make us read, and then publish a text of, any other picture of this machine.

    Raises:
        ImageError: there are none.
    """
    if isinstance(cell, dict):
        content, path = cell.get("bytes"), cell.get("path")
        cell = content if content is not None else path
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    if isinstance(cell, str) and cell.startswith(("http://", "https://")):
        return fetch_url(cell)
    if isinstance(cell, str):
        return read_file(_find_below(cell, folders))
    raise ImageError(Status.DECODE_ERROR, "the row holds no image")


def _find_below(path: str, folders: Sequence[str]) -> Path:
    for folder in folders:
        found = os.path.realpath(os.path.join(folder, path))
        if found.startswith(os.path.realpath(folder).rstrip("/") + "/"):
            return Path(found)
    raise ImageError(Status.DECODE_ERROR, f"the row names a file elsewhere: {path}")


def fetch_url(url: str) -> bytes:
    """Download one image; what passes by itself (429, 5xx, a dropped line) is tried again.

    Raises:
        ImageError: no image can be had from there.
    """
    if not url.startswith(("http://", "https://")):
        # file: and ftp: would let a list of addresses read this machine's own files.
        raise ImageError(Status.DECODE_ERROR, "only http and https addresses are fetched")
    url = urllib.parse.quote(url.strip(), safe=_SAFE)
    request = urllib.request.Request(url, headers={"User-Agent": "d2s-vse"})
    for attempt in range(1, _TRIES + 1):
        wait = min(_LONGEST_WAIT_SECONDS, 0.5 * 2**attempt)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
                content: bytes = answer.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ImageError(Status.TOO_LARGE, f"over the {MAX_FILE_BYTES:,} bytes allowed")
            return content
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code not in _PASSING:
                break
            wait = _read_retry_after(error, wait)
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            reason = " ".join(str(cause).split()) or type(error).__name__
        if attempt < _TRIES:
            time.sleep(wait)
    raise ImageError(Status.DECODE_ERROR, f"cannot be fetched: {reason}")


def _read_retry_after(error: urllib.error.HTTPError, otherwise: float) -> float:
    asked = error.headers.get("Retry-After", "")
    return min(_LONGEST_WAIT_SECONDS, float(asked)) if asked.isdecimal() else otherwise
