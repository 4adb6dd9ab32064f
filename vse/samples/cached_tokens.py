"""Cached tokens of frozen backbones: computed once, stored on disk, read in each step.

A frozen backbone with unchanged inputs gives the same tokens in every step. They are stored in
float32, so that the losses are those of a run that recomputes them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vse.model.d2s import D2SModel
from vse.model.encoding import BATCH, Report, hash_model, read_ahead, say_nothing
from vse.model.text_batch import pad_texts
from vse.model.tokenizer.tokens import TokenStore
from vse.samples.arrays import map_array, new_array
from vse.samples.augmentation import WHOLE, Crop
from vse.samples.images import Pixels


class ImageTokens:
    """Takes the place of images: `read` returns a backbone's tokens (N, W) of a whole image."""

    def __init__(self, array: np.ndarray, *, px: int) -> None:
        """`array` (images, N, W) float32."""
        self.array = array
        self.px = px

    def __len__(self) -> int:
        return len(self.array)

    def read(self, index: int, crop: Crop = WHOLE) -> np.ndarray:
        """(N, W) float32; there are no tokens of crops."""
        assert crop == WHOLE
        return np.asarray(self.array[index])


@torch.no_grad()
def cache_image_tokens(
    model: D2SModel,
    pixels: Pixels,
    *,
    names: Sequence[str],
    folder: Path,
    threads: int = 0,
    report: Report = say_nothing,
) -> ImageTokens:
    """The image backbone's tokens of all images, cached in `folder`.

    Args:
        names: identify the images, with everything that affects their pixels.
        threads, report: see `vse.model.encoding.embed_images`.
    """
    tower, device = model.image, model.image.mean.device
    key = hash_model(tower.backbone)
    for name in (str(pixels.px), *names):
        key.update(os.fsencode(name) + b"\n")
    target = folder / f"image-tokens-{key.hexdigest()[:16]}.npy"
    if not target.is_file():
        tower.backbone.eval()
        shape = (len(pixels), tower.token_count(pixels.px), tower.backbone.width)
        with new_array(target, shape=shape, dtype=np.float32) as array:
            done = 0
            for batch in read_ahead(pixels, BATCH, threads):
                shown = tower.normalise(torch.from_numpy(batch).to(device))
                array[done : done + len(batch)] = tower.backbone(shown).float().cpu().numpy()
                done += len(batch)
                report(done, len(pixels))
    return ImageTokens(map_array(target), px=pixels.px)


@torch.no_grad()
def cache_text_tokens(
    model: D2SModel,
    store: TokenStore,
    *,
    pad_id: int,
    folder: Path,
    report: Report = say_nothing,
) -> TokenStore:
    """The store with `states`: the text backbone's output for all whole texts."""
    backbone, device = model.text.backbone, model.image.mean.device
    key = hash_model(backbone)
    key.update(store.ids.tobytes())
    key.update(store.starts.tobytes())
    target = folder / f"text-tokens-{key.hexdigest()[:16]}.npy"
    if not target.is_file():
        backbone.eval()
        # Batch texts of similar length, to reduce padding.
        order = np.argsort(store.lengths(), kind="stable")
        with new_array(target, shape=(len(store.ids), backbone.width), dtype=np.float32) as array:
            for start in range(0, len(order), BATCH):
                block = order[start : start + BATCH]
                batch = pad_texts([store[int(i)] for i in block], pad_id=pad_id).to(device)
                found = backbone(batch.ids, batch.mask).float().cpu().numpy()
                for index, row, length in zip(block, found, batch.lengths, strict=True):
                    array[store.starts[index] : store.starts[index + 1]] = row[: int(length)]
                report(min(start + BATCH, len(order)), len(order))
    return store.with_states(map_array(target))
