"""The files to share, by path, with the README last: for a folder, a list or an upload."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data.errors import UserError
from data.files.atomic import replace_whole

README = "README.md"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class TreeFile:
    """One file: its path in the repository, its content or local path, size in bytes."""

    path: str
    source: bytes | Path
    size: int
    sha256: str

    def read_blocks(self) -> Iterator[bytes]:
        """The content, in blocks."""
        if isinstance(self.source, bytes):
            yield self.source
            return
        with self.source.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block

    def hash_for_git(self) -> str:
        """The git hash of the content, 40 hexadecimal digits."""
        digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        for block in self.read_blocks():
            digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class Tree:
    """The files of a repository; `data` is sorted by path, without the README."""

    data: tuple[TreeFile, ...]
    readme: TreeFile

    @property
    def entries(self) -> tuple[TreeFile, ...]:
        """All files in the order in which they are uploaded: the README last."""
        return (*self.data, self.readme)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    def hash(self) -> str:
        """A SHA-256 of all paths and contents."""
        lines = "".join(f"{entry.sha256}  {entry.path}\n" for entry in self.entries)
        return hashlib.sha256(lines.encode()).hexdigest()


def make_tree(
    files: Mapping[str, bytes | Path],
    *,
    readme: str,
    hashes: Mapping[str, str] | None = None,
) -> Tree:
    """Build a tree.

    Args:
        files: content, or its local file, by path in the repository ("/" between parts).
        readme: the text of README.md.
        hashes: SHA-256 by path, of files that were already hashed.

    Raises:
        ValueError: a path outside the repository, or that of the README.
    """
    known = hashes or {}
    for path in files:
        parts = PurePosixPath(path).parts
        if path != "/".join(parts) or not parts or parts[0] in ("/", ".git") or ".." in parts:
            raise ValueError(f"{path!r} is not a path in a repository")
    if README in files:
        raise ValueError(f"{README} is given as such")
    data = [_describe(path, files[path], known.get(path)) for path in sorted(files)]
    return Tree(tuple(data), _describe(README, readme.encode(), None))


def write_tree(tree: Tree, folder: Path) -> None:
    """Write every file to a folder (`--to-dir`), replacing an earlier tree of the same files.

    Raises:
        UserError: the folder is that of the run or the model itself, contains other files, or is a
            file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: --to-dir needs a folder")
    here = folder.resolve()
    for entry in tree.entries:
        if isinstance(entry.source, Path) and entry.source.resolve().is_relative_to(here):
            raise UserError(
                f"{folder} contains files to be published ({entry.source.name!r}), which would be "
                "overwritten: use another folder for --to-dir"
            )
    wanted = {entry.path for entry in tree.entries}
    found = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    for path in found:
        if path.relative_to(folder).as_posix() not in wanted:
            raise UserError(
                f"{folder} contains other files ({path.name!r}): use an empty or "
                "new folder for --to-dir"
            )
    for entry in tree.entries:
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_whole(path) as temporary, temporary.open("wb") as file:
            file.writelines(entry.read_blocks())


def describe_tree(tree: Tree) -> dict[str, Any]:
    """{"files": [{"path", "size", "sha256"}], "bytes"} in the order of the upload (`--dry-run`)."""
    files = [{"path": e.path, "size": e.size, "sha256": e.sha256} for e in tree.entries]
    return {"files": files, "bytes": tree.size}


def format_tree(tree: Tree) -> list[str]:
    """A line for each file, in the order of the upload, and a total."""
    width = max(len(f"{entry.size:,}") for entry in tree.entries)
    lines = [f"{e.size:>{width},} B  {e.sha256[:12]}  {e.path}" for e in tree.entries]
    return [*lines, f"{len(tree.entries):,} files, {tree.size:,} B"]


def _describe(path: str, source: bytes | Path, sha256: str | None) -> TreeFile:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if sha256 is None:
        digest = hashlib.sha256()
        for block in TreeFile(path, source, size, "").read_blocks():
            digest.update(block)
        sha256 = digest.hexdigest()
    return TreeFile(path, source, size, sha256)
