"""The embeddings of a split and how well they find each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vse.evaluation.retrieval import Ranks, rank, recalls


@dataclass(frozen=True)
class Evaluation:
    """images (N, D) and texts (M, D) of length 1; image_of (M,): each text's own image."""

    metrics: dict[str, float]
    ranks: Ranks
    images: np.ndarray
    texts: np.ndarray
    image_of: np.ndarray

    def scores(self, texts: Sequence[int]) -> np.ndarray:
        """Cosines of some texts with all images, (len(texts), N)."""
        return self.texts[np.asarray(texts)] @ self.images.T


def measure(
    images: np.ndarray, texts: np.ndarray, image_of: np.ndarray, *, keep: int = 0
) -> Evaluation:
    """Rank embeddings both ways; see `vse.evaluation.retrieval` for ties and `keep`."""
    ranks = rank(images, texts, image_of, keep=keep)
    return Evaluation(recalls(ranks), ranks, images, texts, image_of)
