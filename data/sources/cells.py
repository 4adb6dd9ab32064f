"""Reading the cells of an image column, and which files and URLs a cell may refer to.

An untrusted table must not make us read (and then publish a text about) other images on this
machine, in another repository, or in a private network.
"""

import contextlib
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError, one_line
from data.files.formats import decode_base64, name_ending
from data.images import MAX_FILE_BYTES, ImageError, Status, read_file
from data.sources.download import WebAddress, is_url

_MEMBER = "zip://"
_STEPS_OUT = re.compile(r"(^|[/@])\.\.?(/|$)")
# Archives kept open; a data set may have thousands. Opening one on the Hub takes several requests.
_MOST_OPEN = 8


@dataclass(frozen=True)
class AllowedPlaces:
    """What the cells of one table may refer to.

    Attributes:
        folders: where files may be; relative paths are resolved against the first.
        repository: `hf://datasets/user/name`, of a data set whose files are read from the Hub.
        revision: the commit that places within the repository are of.
        fetch: whether URLs are fetched, because the user named the column.
    """

    folders: tuple[str, ...] = ()
    repository: str | None = None
    revision: str | None = None
    fetch: bool = False

    def find_place(self, path: str) -> str | None:
        """The path of a file within the repository or the first folder; None if it is elsewhere.

        `a/b.jpg`, or `a.zip::b.jpg` for a member of an archive: independent of where a data set is
        stored, so that its images have the same names whether it is streamed or downloaded.
        """
        member, container = _split_member(path)
        place = self._find_inside(container)
        if place is None or member is None:
            return place
        return f"{place}::{member}"

    def name_place(self, place: str) -> str:
        """The inverse of `find_place`: a path that a CellReader reads."""
        container, separator, member = place.partition("::")
        if self.repository is not None:
            path = self._name_inside(container)
        else:
            path = os.path.join(self.folders[0], container)
        return f"{_MEMBER}{member}::{path}" if separator else path

    def _find_inside(self, path: str) -> str | None:
        if self.repository is not None:
            prefix = self._name_inside("")
            if path.startswith(prefix) and not _STEPS_OUT.search(path):
                return path.removeprefix(prefix)
        if not self.folders or "://" in path:
            return None
        # Not resolved: a folder can contain links, as in the library's cache.
        whole = os.path.normpath(os.path.join(self.folders[0], path))
        # The datasets library resolves the folder itself.
        for folder in (self.folders[0], os.path.realpath(self.folders[0])):
            prefix = f"{folder.rstrip('/')}/"
            if whole.startswith(prefix):
                return whole.removeprefix(prefix)
        return None

    def _name_inside(self, place: str) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repository}{revision}/{place}"


class CellReader:
    """Reads the cells of one table."""

    def __init__(self, allowed: AllowedPlaces) -> None:
        self._allowed = allowed
        self._archives = Archives()

    def find(self, cell: Any) -> bytes | WebAddress:
        """The bytes of a cell, or where to fetch them.

        A cell is bytes, a path, or {"bytes", "path"} as in datasets.

        Raises:
            ImageError: there are none, or the cell refers to something that is not allowed.
        """
        content, path = split_cell(cell)
        if content is not None:
            return content if name_ending(content) else decode_base64(content) or content
        if path is None:
            raise ImageError(Status.DECODE_ERROR, "the row has no image")
        if not is_url(path):
            return self._read_path(path)
        if not self._allowed.fetch:
            raise ImageError(
                Status.DECODE_ERROR,
                "the row has a URL: specify its column with --image-column to fetch it",
            )
        return WebAddress(path, named=False)

    def close(self) -> None:
        """Close the archives that were kept open."""
        self._archives.close()

    def _read_path(self, path: str) -> bytes:
        member, container = _split_member(path)
        repository = self._allowed.repository
        if repository is not None and _is_of(container, repository):
            if member is None:
                return read_remote(container)
            return self._archives.read(container, member)
        local = None
        if "://" not in container and "::" not in container:
            local = _find_below(container, self._allowed.folders)
        if local is None:
            raise ImageError(Status.DECODE_ERROR, f"the row names a file elsewhere: {path[:200]}")
        return read_file(local) if member is None else self._archives.read(str(local), member)


def split_cell(cell: Any) -> tuple[bytes | None, str | None]:
    """The bytes and the path of a cell, each None if missing; a text can be base64."""
    content, path = cell, None
    if isinstance(cell, dict):
        content, path = cell.get("bytes"), cell.get("path")
    elif isinstance(cell, str):
        content, path = decode_base64(cell), cell
    if isinstance(content, str):
        content = decode_base64(content)
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content), path
    return None, path if isinstance(path, str) else None


def refuse_unasked(where: str, column: str, cell: Any, *, fetch: bool) -> None:
    """Raise an error that would otherwise affect every row.

    Raises:
        UserError: the first cell of the column is a URL, and the user did not name the column.
    """
    content, path = split_cell(cell)
    if content is None and path is not None and is_url(path) and not fetch:
        raise UserError(
            f"the column {column} of {where} contains URLs: use --image-column {column} to fetch "
            "them"
        )


def _split_member(path: str) -> tuple[str | None, str]:
    """`zip://a.jpg::b.zip` -> (`a.jpg`, `b.zip`); a plain path -> (None, path)."""
    if not path.startswith(_MEMBER) or "::" not in path:
        return None, path
    member, _, container = path.removeprefix(_MEMBER).partition("::")
    return member, container


def _is_of(path: str, repository: str) -> bool:
    own = path.startswith((f"{repository}/", f"{repository}@"))
    return own and "::" not in path and not _STEPS_OUT.search(path)


def _find_below(path: str, folders: tuple[str, ...]) -> Path | None:
    if not folders:
        return None
    found = os.path.realpath(os.path.join(folders[0], path))
    below = (found.startswith(os.path.realpath(folder).rstrip("/") + "/") for folder in folders)
    return Path(found) if any(below) else None


def read_remote(path: str) -> bytes:
    """The bytes of a file of the Hub (`hf://...`).

    Raises:
        ImageError: they cannot be had.
    """
    with _explain(), _open(path) as file:
        return _limit(file.read(MAX_FILE_BYTES + 1))


class Archives:
    """Members of zip archives; recently used archives stay open."""

    def __init__(self) -> None:
        self._files: dict[str, zipfile.ZipFile] = {}

    def read(self, container: str, member: str) -> bytes:
        """The bytes of one member.

        Raises:
            ImageError: they cannot be had.
        """
        with _explain():
            try:
                with self._take(container).open(member) as file:
                    return _limit(file.read(MAX_FILE_BYTES + 1))
            except ImageError:
                raise
            except KeyError:
                message = f"its archive has no {member}"
                raise ImageError(Status.DECODE_ERROR, message) from None
            except BaseException:
                # The connection may have been lost: the next image opens a new one.
                if container in self._files:
                    self._drop(container)
                raise

    def close(self) -> None:
        """Close all of them."""
        for container in list(self._files):
            self._drop(container)

    def _take(self, container: str) -> zipfile.ZipFile:
        if container not in self._files:
            if len(self._files) >= _MOST_OPEN:
                self._drop(next(iter(self._files)))
            self._files[container] = zipfile.ZipFile(_open(container))
        return self._files[container]

    def _drop(self, container: str) -> None:
        archive = self._files.pop(container)
        inner = archive.fp
        with contextlib.suppress(OSError):
            archive.close()
            # ZipFile does not close a file object that it was given.
            if inner is not None:
                inner.close()


def _open(path: str) -> Any:
    if "://" not in path:
        return open(path, "rb")
    # The opener of datasets: it handles the Hub, tokens and retries.
    from datasets.utils.file_utils import xopen

    return xopen(path, "rb")


def _limit(content: bytes) -> bytes:
    if len(content) > MAX_FILE_BYTES:
        raise ImageError(Status.TOO_LARGE, f"larger than the limit of {MAX_FILE_BYTES:,} bytes")
    return content


@contextlib.contextmanager
def _explain() -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(Status.DECODE_ERROR, "the file does not exist") from error
    except zipfile.BadZipFile as error:
        raise ImageError(Status.DECODE_ERROR, f"its archive is damaged: {error}") from error
    except Exception as error:  # whatever a file system of fsspec raises
        message = f"cannot be read: {one_line(error)}"
        raise ImageError(Status.DECODE_ERROR, message) from error
