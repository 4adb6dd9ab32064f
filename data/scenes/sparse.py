"""Five sparse captions of a scene, worded like a person's: incomplete and varied.

A caption names one to three things, probably the large and central ones, usually with their color,
sometimes with texture, size and place. What it states is kept as `Told`, from which the exact
probability of the caption given any scene follows (data.scenes.oracle).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.scenes.dense import relate
from data.scenes.world import Scene, Thing, scene_rng, thing_facts

CAPTIONS_PER_IMAGE = 5
# Probabilities that a caption mentions an attribute; the shape is always mentioned.
P_THINGS = (0.25, 0.5, 0.25)  # one, two, three things
P_COLOUR, P_TEXTURE, P_SIZE = 0.8, 0.35, 0.25
P_PLACE, P_RELATION, P_GROUND = 0.25, 0.45, 0.3

_SHAPE_WORDS = {
    "circle": ("circle", "disc"), "square": ("square", "block"), "triangle": ("triangle", "wedge"),
    "star": ("star", "star"), "heart": ("heart", "heart"), "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"), "moon": ("moon", "crescent"),
}  # fmt: skip
_SIZE_WORDS = {"large": ("large", "big", "huge"), "small": ("small", "little", "tiny")}
_TEXTURE_WORDS = {
    "striped": ("striped", "striped", "stripy"), "spotted": ("spotted", "dotted", "polka dot"),
    "checked": ("checked", "checkered", "chequered"),
}  # fmt: skip
_GROUND_WORDS = {
    "grass": ("on grass", "on the lawn"), "sand": ("on sand", "on the beach"),
    "snow": ("in the snow", "on snow"), "water": ("on water", "in the sea"),
    "brick": ("on a brick wall", "on bricks"), "night": ("at night", "in the night sky"),
}  # fmt: skip
_RELATION_WORDS = {
    "above": ("above", "over"), "below": ("below", "under"),
    "to the left of": ("to the left of", "left of"),
    "to the right of": ("to the right of", "right of"),
}  # fmt: skip
_NEUTRAL = ("and", "with", "next to", "near", "beside")
_OPENINGS = ("", "", "a picture of ", "there is ", "i see ", "an image of ", "here is ")


@dataclass(frozen=True)
class Mention:
    """What a caption says about one thing; None for what it omits. `side` is a coarse place."""

    shape: str
    colour: str | None
    size: str | None
    texture: str | None
    side: str | None


@dataclass(frozen=True)
class Told:
    """What a caption says: mentions in order, the relation of the first two, the ground."""

    mentions: tuple[Mention, ...]
    relation: str | None
    ground: str | None


def sides(thing: Thing) -> tuple[str, ...]:
    """The coarse places of a thing, equally likely ("on the left", "at the top")."""
    rows = ("at the top", "in the middle", "at the bottom")
    columns = ("on the left", "in the middle", "on the right")
    found = {rows[thing.row], columns[thing.column]}
    return tuple(sorted(found - {"in the middle"} or found))


def write_captions(scene: Scene, *, seed: int) -> list[tuple[str, Told, frozenset]]:
    """Five captions: the words, their content as `Told`, and the facts of the scene they state."""
    rng = scene_rng(seed, scene.split, scene.index, 2)
    return [_write_caption(scene, rng) for _ in range(CAPTIONS_PER_IMAGE)]


def _write_caption(scene: Scene, rng: np.random.Generator) -> tuple[str, Told, frozenset]:
    count = 1 + int(rng.choice(3, p=P_THINGS))
    weights = np.array([thing.salience for thing in scene.things])
    named = rng.choice(len(weights), size=count, replace=False, p=weights / weights.sum())
    things = [scene.things[int(which)] for which in named]
    mentions = tuple(_mention(thing, rng) for thing in things)
    relation = relate(*things[:2]) if count > 1 and rng.random() < P_RELATION else None
    told = Told(mentions, relation, scene.ground if rng.random() < P_GROUND else None)
    return _word(told, rng), told, _facts_told(told, things)


def _mention(thing: Thing, rng: np.random.Generator) -> Mention:
    chance = rng.random(4)
    return Mention(
        shape=thing.shape,
        colour=thing.colour if chance[0] < P_COLOUR else None,
        size=thing.size if chance[1] < P_SIZE else None,
        # Nobody says "a plain star": leaving it out is informative, and the oracle accounts for it.
        texture=thing.texture if thing.texture != "plain" and chance[2] < P_TEXTURE else None,
        side=str(rng.choice(sides(thing))) if chance[3] < P_PLACE else None,
    )


def _facts_told(told: Told, things: list[Thing]) -> frozenset:
    """The facts of the scene that the caption states; a coarse side counts as the place."""
    facts: set[tuple[str, ...]] = set()
    for mention, thing in zip(told.mentions, things, strict=True):
        said = {"shape"} | {a for a in ("colour", "size", "texture") if getattr(mention, a)}
        said |= {"thing"} if mention.side else set()
        facts |= {fact for fact in thing_facts(thing) if fact[1] in said}
    if told.ground:
        facts.add(("ground", told.ground))
    return frozenset(facts)


def _word(told: Told, rng: np.random.Generator) -> str:
    """Put the content into words."""
    parts = [_word_mention(mention, rng) for mention in told.mentions]
    text = parts[0]
    for rank, part in enumerate(parts[1:]):
        joint = _pick(_NEUTRAL, rng) if rank == 0 else _pick(("and", "with", "near"), rng)
        if rank == 0 and told.relation:
            joint = _pick(_RELATION_WORDS[told.relation], rng)
        text += f" {joint} {part}"
    text = _pick(_OPENINGS, rng) + text
    if told.ground:
        where = _pick(_GROUND_WORDS[told.ground], rng)
        text = f"{text} {where}" if rng.random() < 0.7 else f"{where}, {text}"
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:] + "."
    return text


def _word_mention(mention: Mention, rng: np.random.Generator) -> str:
    first, second = _SHAPE_WORDS[mention.shape]
    words = [_pick(_SIZE_WORDS[mention.size], rng)] if mention.size else []
    if mention.colour and mention.texture and rng.random() < 0.4:
        words += [_pick(_TEXTURE_WORDS[mention.texture], rng), mention.colour]
    else:
        words += [mention.colour] if mention.colour else []
        words += [_pick(_TEXTURE_WORDS[mention.texture], rng)] if mention.texture else []
    words.append(first if rng.random() < 0.75 else second)
    phrase = ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)
    return f"{phrase} {mention.side}" if mention.side else phrase


def _pick(words: tuple[str, ...], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]
