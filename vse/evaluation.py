"""Embeddings of a split and what retrieval makes of them; every image is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.tokens import TokenStore
from vse.augment import normalise
from vse.model import D2SModel
from vse.pixels import Pixels
from vse.retrieval import Ranks, rank, recalls
from vse.text_batch import pad_texts


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


def evaluate(
    model: D2SModel,
    *,
    pixels: Pixels,
    texts: TokenStore,
    image_of: np.ndarray,
    pad_id: int,
    batch_size: int = 128,
) -> Evaluation:
    """Encode a split and rank it both ways; see `vse.retrieval` for ties."""
    images = embed_images(model, pixels, batch_size=batch_size)
    embedded = embed_texts(model, texts, pad_id=pad_id, batch_size=batch_size)
    return measure(images, embedded, image_of)


def measure(images: np.ndarray, texts: np.ndarray, image_of: np.ndarray) -> Evaluation:
    """Rank embeddings both ways."""
    ranks = rank(images, texts, image_of)
    return Evaluation(recalls(ranks), ranks, images, texts, image_of)


@torch.no_grad()
def embed_images(model: D2SModel, pixels: Pixels, *, batch_size: int = 128) -> np.ndarray:
    """(N, D) float32 of length 1, in order. The model is left in the mode it came in."""
    device, mode = _device(model), model.training
    model.eval()
    rows = []
    for start in range(0, len(pixels), batch_size):
        block = range(start, min(start + batch_size, len(pixels)))
        batch = torch.from_numpy(np.stack([pixels.read(index) for index in block]))
        rows.append(model.encode_image(normalise(batch.to(device))).float().cpu())
    model.train(mode)
    return torch.cat(rows).numpy()


@torch.no_grad()
def embed_texts(
    model: D2SModel,
    store: TokenStore,
    *,
    pad_id: int,
    batch_size: int = 128,
    unit: bool = True,
    decode: bool = True,
) -> np.ndarray:
    """(M, D) float32, in order; of length 1 with `unit`; without the decoder if not `decode`.

    Texts of like length go together, so that little padding is computed.
    """
    device, mode = _device(model), model.training
    model.eval()
    order = np.argsort(store.lengths(), kind="stable")
    rows: np.ndarray | None = None
    for start in range(0, len(order), batch_size):
        block = order[start : start + batch_size]
        batch = pad_texts([store[int(i)] for i in block], pad_id=pad_id).to(device)
        found = model.encode_text(batch) if decode else model.text(batch)[0].float()
        if unit:
            found = torch.nn.functional.normalize(found, dim=-1)
        if rows is None:
            rows = np.empty((len(order), found.shape[1]), dtype=np.float32)
        rows[block] = found.cpu().numpy()
    model.train(mode)
    assert rows is not None
    return rows


def _device(model: D2SModel) -> torch.device:
    return next(model.parameters()).device
