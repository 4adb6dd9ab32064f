"""Arrays too large for memory: written once, whole or not at all, and mapped from disk."""

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
    """The array to fill; it lies in `target` once it is whole.

    Raises:
        UserError: the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(target) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", dtype=dtype, shape=shape)
        # A mapped file has holes until it is written, and a disk full by then kills with SIGBUS.
        with temporary.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        yield array
        array.flush()


def map_array(path: Path) -> np.ndarray:
    """An array of `new_array`, read as it is used."""
    found: np.ndarray = np.load(path, mmap_mode="r")
    return found
