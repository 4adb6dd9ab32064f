"""Indexes of drawn vectors, of no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vse.search.index import Index
from vse.search.parts import Part, PartFolder, make_table
from vse.search.schema import IndexInfo

WIDTH = 32


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32."""
    found: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")
    return found


def write_index(path: Path, vectors: np.ndarray, *, part_size: int = 1024) -> Index:
    """A finished file of (N, WIDTH)."""
    info = IndexInfo(
        kind="images",
        given="x",
        listing="l",
        model="m",
        weights_sha256="w",
        fingerprint="f",
        px=16,
        width=WIDTH,
    )
    folder = PartFolder(path, info)
    for start in range(0, len(vectors), part_size):
        part = vectors[start : start + part_size]
        ids = [str(start + number) for number in range(len(part))]
        table = make_table(info, {"id": ids}, part)
        folder.write(Part(start, start + len(part), table))
    folder.finish(len(vectors))
    return Index(path)
