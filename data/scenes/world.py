"""Scenes: their things and ground, and how both are sampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.scenes.correlation import chances

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
TEXTURES = ("plain", "striped", "spotted", "checked")
SIZES = ("small", "large")
GROUNDS = ("grass", "sand", "snow", "water", "brick", "night")
# The nine cells of a 3 x 3 grid in reading order: cell = 3 * row + column.
PLACES = (
    "top left corner", "top", "top right corner",
    "left", "centre", "right",
    "bottom left corner", "bottom", "bottom right corner",
)  # fmt: skip
# The captioner is trained on separate scenes, so that it is never tested on training scenes.
SPLITS = ("train", "val", "test", "captioner_train", "captioner_test")
MIN_THINGS, MAX_THINGS = 4, 6


@dataclass(frozen=True)
class Thing:
    """One thing in a scene; `place` is its cell, 0 to 8 in reading order."""

    shape: str
    colour: str
    size: str
    texture: str
    place: int

    @property
    def row(self) -> int:
        return self.place // 3

    @property
    def column(self) -> int:
        return self.place % 3

    @property
    def salience(self) -> float:
        """How likely a person is to mention the thing: people mention what is large and central."""
        size = 6.0 if self.size == "large" else 1.0
        off_centre = abs(self.row - 1) + abs(self.column - 1)
        return size * (2.0, 1.4, 1.0)[off_centre]


@dataclass(frozen=True)
class Scene:
    """A scene; `things` are in reading order of their places, at most one per cell."""

    split: str
    index: int
    ground: str
    things: tuple[Thing, ...]

    def facts(self) -> frozenset[tuple[str, ...]]:
        """Every fact of the scene: its ground, and five facts per thing.

        A fact is ("ground", ground) or (place, attribute, value), where the attribute is thing
        (there is one at this place), shape, color, size or texture.
        """
        found: set[tuple[str, ...]] = {("ground", self.ground)}
        for thing in self.things:
            found |= thing_facts(thing)
        return frozenset(found)


def thing_facts(thing: Thing) -> set[tuple[str, ...]]:
    """The five facts of one thing."""
    place = PLACES[thing.place]
    return {
        (place, "thing", "yes"),
        (place, "shape", thing.shape),
        (place, "colour", thing.colour),
        (place, "size", thing.size),
        (place, "texture", thing.texture),
    }


def scene_rng(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    """The random stream of one scene for one purpose (0 facts, 1 picture, 2 captions)."""
    return np.random.default_rng(
        np.random.SeedSequence([seed, SPLITS.index(split), index, purpose])
    )


def sample_scene(seed: int, split: str, index: int, *, correlation: float = 0.0) -> Scene:
    """Draw scene `index` of `split`; the same arguments always give the same scene.

    No two things of a scene share both shape and colour, so that "the red star" is one thing.

    Args:
        correlation: bits that the ground and its shape reveal about a thing.
    """
    rng = scene_rng(seed, split, index, 0)
    if correlation > 0:
        return _sample_correlated(rng, split, index, correlation)
    count = int(rng.integers(MIN_THINGS, MAX_THINGS + 1))
    places = sorted(int(p) for p in rng.choice(len(PLACES), size=count, replace=False))
    names = rng.choice(len(SHAPES) * len(COLOURS), size=count, replace=False)
    things = tuple(
        Thing(
            shape=SHAPES[int(name) // len(COLOURS)],
            colour=COLOURS[int(name) % len(COLOURS)],
            size=SIZES[int(rng.integers(len(SIZES)))],
            texture=TEXTURES[int(rng.integers(len(TEXTURES)))],
            place=place,
        )
        for place, name in zip(places, names, strict=True)
    )
    return Scene(split=split, index=index, ground=GROUNDS[int(rng.integers(6))], things=things)


def _sample_correlated(
    rng: np.random.Generator, split: str, index: int, correlation: float
) -> Scene:
    kinds = (len(GROUNDS), len(SHAPES), len(COLOURS), len(TEXTURES))
    of_ground, colour_of, texture_of = chances(correlation, kinds=kinds)
    ground = int(rng.integers(len(GROUNDS)))
    count = int(rng.integers(MIN_THINGS, MAX_THINGS + 1))
    places = sorted(int(p) for p in rng.choice(len(PLACES), size=count, replace=False))
    pairs = np.outer(of_ground[ground], colour_of[ground]).ravel()
    names = rng.choice(len(pairs), size=count, replace=False, p=pairs / pairs.sum())
    things = []
    for place, name in zip(places, names, strict=True):
        shape, colour = divmod(int(name), len(COLOURS))
        size = SIZES[int(rng.integers(len(SIZES)))]
        texture = TEXTURES[int(rng.choice(len(TEXTURES), p=texture_of[shape]))]
        things.append(Thing(SHAPES[shape], COLOURS[colour], size, texture, place))
    return Scene(split=split, index=index, ground=GROUNDS[ground], things=tuple(things))
