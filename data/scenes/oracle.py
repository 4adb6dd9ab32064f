"""The best R@1 that any model could reach on scenes, from the ground truth.

A caption leaves out much, so several images fit it. Since captions are generated
(data.scenes.sparse), p(caption | scene) is known exactly. With a uniform prior over the images of
the gallery, the best ranking of images for a caption is by p(caption | image), and of captions for
an image by p(image | caption). No score of image-caption pairs is better on average. Equal
probabilities count as chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from data.scenes.dense import relate
from data.scenes.sparse import P_TEXTURE, Mention, Told, sides
from data.scenes.world import Scene, Thing


@dataclass(frozen=True)
class Oracle:
    """The best R@1 in percent, text to image and image to text, and the size of the gallery."""

    t2i_r1: float
    i2t_r1: float
    images: int
    captions: int


def compute_oracle(scenes: Sequence[Scene], told: Sequence[Sequence[Told]]) -> Oracle:
    """Compute the oracle: `told[i]` are the captions of `scenes[i]`; all are ranked against all."""
    owner = np.array([row for row, captions in enumerate(told) for _ in captions])
    flat = [caption for captions in told for caption in captions]
    likelihood = _likelihoods(scenes, flat)  # (captions, scenes)
    own = likelihood[np.arange(len(flat)), owner]
    better = (likelihood > own[:, None] * (1 + 1e-9)).sum(1)
    tied = (np.abs(likelihood - own[:, None]) <= own[:, None] * 1e-9).sum(1)
    t2i = np.where(better == 0, 1.0 / tied, 0.0)
    posterior = likelihood / likelihood.sum(1, keepdims=True)
    i2t = []
    for row in range(len(scenes)):
        best = posterior[:, row].max()
        first = np.abs(posterior[:, row] - best) <= best * 1e-9
        i2t.append((first & (owner == row)).sum() / first.sum())
    return Oracle(
        t2i_r1=float(100 * t2i.mean()),
        i2t_r1=float(100 * np.mean(i2t)),
        images=len(scenes),
        captions=len(flat),
    )


def _likelihoods(scenes: Sequence[Scene], captions: Sequence[Told]) -> np.ndarray:
    """(captions, scenes) float64. Scenes without a mentioned (shape, color) are skipped."""
    with_shape: dict[tuple[str, str | None], set[int]] = {}
    for row, scene in enumerate(scenes):
        for thing in scene.things:
            with_shape.setdefault((thing.shape, None), set()).add(row)
            with_shape.setdefault((thing.shape, thing.colour), set()).add(row)
    table = np.zeros((len(captions), len(scenes)))
    for line, caption in enumerate(captions):
        fitting = [with_shape.get((m.shape, m.colour), set()) for m in caption.mentions]
        for row in set.intersection(*fitting):
            table[line, row] = likelihood(caption, scenes[row])
    return table


def likelihood(caption: Told, scene: Scene) -> float:
    """p(caption | scene), up to factors that are the same for every scene."""
    if caption.ground and caption.ground != scene.ground:
        return 0.0
    total = 0.0
    for things in permutations(scene.things, len(caption.mentions)):
        if caption.relation and relate(*things[:2]) != caption.relation:
            continue
        chance, left = 1.0, sum(thing.salience for thing in scene.things)
        for mention, thing in zip(caption.mentions, things, strict=True):
            chance *= thing.salience / left * _fit(mention, thing)
            left -= thing.salience
        total += chance
    return total


def _fit(mention: Mention, thing: Thing) -> float:
    """p(mention | thing), up to factors that are the same for every scene."""
    if mention.shape != thing.shape:
        return 0.0
    if mention.colour not in (None, thing.colour) or mention.size not in (None, thing.size):
        return 0.0
    chance = 1.0
    if mention.texture:
        chance *= float(mention.texture == thing.texture)
    elif thing.texture != "plain":
        chance *= 1 - P_TEXTURE
    if mention.side:
        here = sides(thing)
        chance *= (mention.side in here) / len(here)
    return chance
