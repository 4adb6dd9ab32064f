"""Hashes of bytes, of whole files, and of the edges of large files."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from data.errors import UserError

# A Parquet file's footer and a tar file's first headers lie within.
_EDGE_BYTES = 64 * 1024


def stamp_files(files: Sequence[Path]) -> str:
    """One hash of the names, sizes, beginnings and ends of files.

    Rows and members are located by number or offset, so a rewritten file would return other images
    under the same ids. A copied or moved file keeps its stamp.

    Raises:
        UserError: a file cannot be read.
    """
    total = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                total.update(f"{path.name}\0{size}\n".encode("utf-8", "surrogateescape"))
                file.seek(0)
                total.update(file.read(_EDGE_BYTES))
                file.seek(max(0, size - _EDGE_BYTES))
                total.update(file.read(_EDGE_BYTES))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return total.hexdigest()


def stamp_folder(folder: Path) -> str:
    """One hash of all files in a folder, like `stamp_files`."""
    return stamp_files(sorted(path for path in folder.rglob("*") if path.is_file()))


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_bytes(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()
