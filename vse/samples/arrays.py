"""Arrays too large for memory: written once, atomically, and memory-mapped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data.files.atomic import replace_whole


@contextmanager
def new_array(target: Path, *, shape: tuple[int, ...], dtype: Any) -> Iterator[np.ndarray]:
    """An array to fill; it is moved to `target` when it is complete.

    Raises:
        UserError: the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(target) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", dtype=dtype, shape=shape)
        # A memory-mapped file is sparse until it is written; a full disk would then kill us with
        # SIGBUS.
        with temporary.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        yield array
        array.flush()


def map_array(path: Path) -> np.ndarray:
    """Memory-map an array written by `new_array`."""
    found: np.ndarray = np.load(path, mmap_mode="r")
    return found
