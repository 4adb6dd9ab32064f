"""What the protocol needs of a model: images and captions in, embeddings out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Report = Callable[[int, int], None]


class Peer(Protocol):
    """A model that is measured. It prepares images and texts in its own way."""

    name: str  # as the user calls it
    px: int  # side of the square that its image tower gets

    def embed_files(
        self, paths: Sequence[Path], *, report: Report
    ) -> tuple[np.ndarray, Mapping[int, str]]:
        """(N, D) float32 of length 1, and by index what is wrong with images that are broken."""
        ...

    def embed_captions(self, captions: Sequence[str], *, report: Report) -> np.ndarray:
        """(M, D) float32 of length 1; what is longer than the tower reads is cut."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the results say of it: docs/evaluation.md."""
        ...
