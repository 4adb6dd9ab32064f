"""Training examples of `llava-scenes`: images, facts as class labels, dense text."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from captioner.llava_scenes.build import IMAGE_PIXELS
from data.scenes.dense import describe
from data.scenes.render import render
from data.scenes.world import COLOURS, GROUNDS, SHAPES, SIZES, TEXTURES, Scene, sample_scene

ABSENT = -100  # the label that cross entropy ignores
ATTRIBUTES = (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES))


@dataclass(frozen=True)
class Examples:
    """N scenes as arrays.

    images (N, H, W, 3) uint8; labels (N, 9, 5) int64: presence, then one class per attribute,
    ABSENT if the cell is empty; grounds (N,) int64; texts: N dense texts.
    """

    images: np.ndarray
    labels: np.ndarray
    grounds: np.ndarray
    texts: list[str]

    def first(self, count: int) -> Examples:
        """The first `count` of them."""
        return Examples(
            self.images[:count], self.labels[:count], self.grounds[:count], self.texts[:count]
        )


def make_examples(count: int, *, split: str, seed: int, processes: int) -> Examples:
    """Render `count` scenes of `split`, at the size that the model sees."""
    make = partial(_make_example, split=split, seed=seed)
    with ProcessPoolExecutor(processes) as pool:
        made = list(pool.map(make, range(count), chunksize=100))
    images, labels, grounds, texts = zip(*made, strict=True)
    return Examples(np.stack(images), np.stack(labels), np.array(grounds), list(texts))


def _make_example(index: int, *, split: str, seed: int) -> tuple[np.ndarray, np.ndarray, int, str]:
    scene = sample_scene(seed, split, index)
    small = render(scene, seed=seed).resize((IMAGE_PIXELS, IMAGE_PIXELS), Image.Resampling.BICUBIC)
    return np.asarray(small), label(scene), GROUNDS.index(scene.ground), describe(scene)


def label(scene: Scene) -> np.ndarray:
    """(9, 5) int64: presence 0 or 1, then the class of shape, colour, size and texture."""
    labels = np.full((9, 1 + len(ATTRIBUTES)), ABSENT, np.int64)
    labels[:, 0] = 0
    for thing in scene.things:
        classes = [names.index(getattr(thing, attribute)) for attribute, names in ATTRIBUTES]
        labels[thing.place] = [1, *classes]
    return labels
