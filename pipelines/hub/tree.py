"""What is shared: files by their path in the repository, and the README that comes last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

README = "README.md"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One file: its path in the repository, its content or where that lies, size in bytes."""

    path: str
    source: bytes | Path
    size: int
    sha256: str

    def read_blocks(self) -> Iterator[bytes]:
        """The content, a piece at a time."""
        if isinstance(self.source, bytes):
            yield self.source
            return
        with self.source.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block

    def hash_for_git(self) -> str:
        """The name that git gives this content, 40 hexadecimal digits."""
        digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        for block in self.read_blocks():
            digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class Tree:
    """The files of a repository; `data` in the order of their paths, without the README."""

    data: tuple[Entry, ...]
    readme: Entry

    @property
    def entries(self) -> tuple[Entry, ...]:
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
    """The tree of these files.

    Args:
        files: content, or the file that has it, by path in the repository ("/" between parts).
        readme: the text of README.md.
        hashes: SHA-256 by path, of those files that were hashed before.

    Raises:
        ValueError: a path that would lie outside the repository, or is the README's.
    """
    known = hashes or {}
    for path in files:
        parts = PurePosixPath(path).parts
        if path != "/".join(parts) or not parts or parts[0] in ("/", ".git") or ".." in parts:
            raise ValueError(f"{path!r} is no path in a repository")
    if README in files:
        raise ValueError(f"{README} is given as such")
    data = [_describe(path, files[path], known.get(path)) for path in sorted(files)]
    return Tree(tuple(data), _describe(README, readme.encode(), None))


def _describe(path: str, source: bytes | Path, sha256: str | None) -> Entry:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if sha256 is None:
        digest = hashlib.sha256()
        for block in Entry(path, source, size, "").read_blocks():
            digest.update(block)
        sha256 = digest.hexdigest()
    return Entry(path, source, size, sha256)
