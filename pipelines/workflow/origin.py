"""Where published figures come from: a hash of the code, and the command without local paths."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import captioner
import data
import pipelines
import vse
from data.environment import strip_path
from data.files.hashes import hash_bytes

# The code of a step that an earlier version ran.
UNKNOWN = "unknown"


def hash_code(*folders: Path) -> str:
    """The first 16 digits of a hash of all Python files of the packages, and of `folders`."""
    packages = (captioner, data, pipelines, vse)
    places = (*(Path(str(package.__file__)).parent for package in packages), *folders)
    files = sorted(path for place in places for path in place.rglob("*.py"))
    return hash_bytes(b"".join(path.read_bytes() for path in files))[:16]


def describe_code(hashes: Iterable[str] | None) -> list[str]:
    """A paragraph for a page, as lines; none for the figures of versions that did not record it.

    Args:
        hashes: those of all steps, in the order in which they ran.
    """
    known = list(hashes or ())
    if not known:
        return []
    listed = ", ".join(name if name == UNKNOWN else f"`{name}`" for name in known)
    mixed = " The runs were made by different versions of the code." if len(known) > 1 else ""
    return ["", f"Code (hash of all modules): {listed}.{mixed}"]


def quote_command(words: Sequence[str]) -> str:
    """A command line for a page: of absolute paths, also after `=`, only the last part."""
    return shlex.join("=".join(map(strip_path, word.split("="))) for word in words)
