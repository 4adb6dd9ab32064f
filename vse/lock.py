"""One process at a time makes a cached file; the others wait and find it made."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Hold `folder`/.lock. The system frees it when a process dies, so none is ever left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
