"""The bytes of an image column's cell, and what a cell may name besides its own bytes.

A table from elsewhere must not make us read, and then publish a text of, any other picture of this
machine, of another repository, or of a network that only we can see.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.images import ImageError, Status, read_file
from data.sources.containers import Archives, read_remote
from data.sources.download import fetch_url, is_url

_MEMBER = "zip://"
_STEPS_OUT = re.compile(r"(^|[/@])\.\.?(/|$)")


@dataclass(frozen=True)
class Reach:
    """What the cells of one table may name.

    Attributes:
        folders: where files may lie; a relative path is one below the first.
        repository: `hf://datasets/user/name`, of a data set whose files are read from the Hub.
        revision: the commit that places within the repository are of.
        fetch: whether addresses are fetched, because the user named the column himself.
    """

    folders: tuple[str, ...] = ()
    repository: str | None = None
    revision: str | None = None
    fetch: bool = False

    def find_place(self, path: str) -> str | None:
        """The place of a file within the repository or the first folder; None if it is not there.

        `a/b.jpg`, or `a.zip::b.jpg` for a member of an archive: the same wherever a data set lies,
        so that its images have the same names when it is streamed and when it is downloaded.
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
        # Not resolved: what a folder holds may be links, as in the library's cache.
        whole = os.path.normpath(os.path.join(self.folders[0], path))
        prefix = f"{self.folders[0].rstrip('/')}/"
        return whole.removeprefix(prefix) if whole.startswith(prefix) else None

    def _name_inside(self, place: str) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repository}{revision}/{place}"


class CellReader:
    """Reads the cells of one table."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._archives = Archives()

    def read(self, cell: Any) -> bytes:
        """The bytes of a cell: bytes, a path, or {"bytes", "path"} as datasets has it.

        Raises:
            ImageError: there are none, or the cell names what is out of reach.
        """
        content, path = split_cell(cell)
        if content is not None:
            return content
        if path is None:
            raise ImageError(Status.DECODE_ERROR, "the row holds no image")
        if not is_url(path):
            return self._read_path(path)
        if not self._reach.fetch:
            raise ImageError(
                Status.DECODE_ERROR,
                "the row names an address: name its column with --image-column to have it fetched",
            )
        return fetch_url(path, named=False)

    def close(self) -> None:
        """Close the archives that were kept open."""
        self._archives.close()

    def _read_path(self, path: str) -> bytes:
        member, container = _split_member(path)
        repository = self._reach.repository
        if repository is not None and _is_of(container, repository):
            if member is None:
                return read_remote(container)
            return self._archives.read(container, member)
        local = None
        if "://" not in container and "::" not in container:
            local = _find_below(container, self._reach.folders)
        if local is None:
            raise ImageError(Status.DECODE_ERROR, f"the row names a file elsewhere: {path}")
        return read_file(local) if member is None else self._archives.read(str(local), member)


def split_cell(cell: Any) -> tuple[bytes | None, str | None]:
    """The bytes and the path of a cell, None for what it has not."""
    content, path = cell, None
    if isinstance(cell, dict):
        content, path = cell.get("bytes"), cell.get("path")
    elif isinstance(cell, str):
        content, path = None, cell
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content), path
    return None, path if isinstance(path, str) else None


def refuse_unasked(where: str, column: str, cell: Any, *, fetch: bool) -> None:
    """Say at once what would be the error of every row.

    Raises:
        UserError: the first cell of the column is an address, and the user did not name the column.
    """
    content, path = split_cell(cell)
    if content is None and path is not None and is_url(path) and not fetch:
        raise UserError(
            f"the column {column} of {where} holds addresses: give --image-column {column} to have "
            "them fetched"
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
