"""Writing the dense text of a scene, and checking which statements of a dense text are true.

A text states every fact in reading order, one sentence per thing, and ends with one relation:

    The image shows four shapes on grass. In the top left corner is a large red striped star. ...
    The red star is above the blue ring.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from data.scenes.world import PLACES, Scene, Thing

_COUNTS = {4: "four", 5: "five", 6: "six"}
_AT = (
    "In the top left corner", "At the top", "In the top right corner",
    "On the left", "In the centre", "On the right",
    "In the bottom left corner", "At the bottom", "In the bottom right corner",
)  # fmt: skip
_ON = {
    "grass": "on grass", "sand": "on sand", "snow": "on snow",
    "water": "on water", "brick": "on brick", "night": "at night",
}  # fmt: skip
_OPENING = re.compile(r"The image shows (\w+) shapes (\w+ \w+)")
_THING = re.compile(rf"({'|'.join(_AT)}) is a (\w+) (\w+) (\w+) (\w+)")
_RELATION = re.compile(
    r"The (\w+) (\w+) is (to the left of|to the right of|above|below) the (\w+) (\w+)"
)


def relate(one: Thing, other: Thing) -> str:
    """Position of `one` relative to `other`: above or below; in the same row, left or right."""
    if one.row != other.row:
        return "above" if one.row < other.row else "below"
    return "to the left of" if one.column < other.column else "to the right of"


def describe(scene: Scene) -> str:
    """The dense text of a scene: every fact, in English."""
    sentences = [f"The image shows {_COUNTS[len(scene.things)]} shapes {_ON[scene.ground]}."]
    for thing in scene.things:
        sentences.append(
            f"{_AT[thing.place]} is a {thing.size} {thing.colour} {thing.texture} {thing.shape}."
        )
    one, other = sorted(scene.things, key=lambda thing: (-thing.salience, thing.place))[:2]
    sentences.append(
        f"The {one.colour} {one.shape} is {relate(one, other)} the {other.colour} {other.shape}."
    )
    return " ".join(sentences)


@dataclass(frozen=True)
class Audit:
    """The result of checking a dense text, in statements (claims) and sentences."""

    statements: int
    true_statements: int
    facts: int
    told_facts: int
    sentences: int
    true_sentences: int

    def __add__(self, other: Audit) -> Audit:
        return Audit(*(a + b for a, b in zip(self._counts(), other._counts(), strict=True)))

    def _counts(self) -> tuple[int, ...]:
        return (
            self.statements, self.true_statements, self.facts,
            self.told_facts, self.sentences, self.true_sentences,
        )  # fmt: skip

    @property
    def true(self) -> float:
        """Share of the statements that are true (1 - hallucination), 0 to 1."""
        return self.true_statements / max(self.statements, 1)

    @property
    def told(self) -> float:
        """Share of the facts that are stated, 0 to 1."""
        return self.told_facts / max(self.facts, 1)

    @property
    def exact(self) -> float:
        """Share of the sentences in which every statement is true, 0 to 1."""
        return self.true_sentences / max(self.sentences, 1)


def audit(text: str, scene: Scene) -> Audit:
    """Check a dense text against its scene.

    A statement is a claim: the number of things, the ground, that there is a thing at a place, each
    of its four attributes, a relation. A sentence that does not follow the grammar of dense texts
    counts as one false statement.
    """
    facts = scene.facts()
    told: set[tuple[str, ...]] = set()
    statements = true_statements = true_sentences = 0
    sentences = [part.strip() for part in text.split(".") if part.strip()]
    for sentence in sentences:
        verdicts = _judge(sentence, scene, facts, told)
        statements += len(verdicts)
        true_statements += sum(verdicts)
        true_sentences += all(verdicts)
    return Audit(
        statements=statements, true_statements=true_statements,
        facts=len(facts), told_facts=len(told),
        sentences=len(sentences), true_sentences=true_sentences,
    )  # fmt: skip


def _judge(
    sentence: str, scene: Scene, facts: frozenset[tuple[str, ...]], told: set[tuple[str, ...]]
) -> list[bool]:
    """One verdict per statement of the sentence; adds the true facts to `told`."""
    if match := _OPENING.fullmatch(sentence):
        count, ground = match.groups()
        claim = ("ground", next((name for name, on in _ON.items() if on == ground), ground))
        told |= {claim} & facts
        return [count == _COUNTS[len(scene.things)], claim in facts]
    if match := _THING.fullmatch(sentence):
        at, size, colour, texture, shape = match.groups()
        place = PLACES[_AT.index(at)]
        claims = [
            (place, "thing", "yes"), (place, "size", size), (place, "colour", colour),
            (place, "texture", texture), (place, "shape", shape),
        ]  # fmt: skip
        told |= set(claims) & facts
        return [claim in facts for claim in claims]
    if match := _RELATION.fullmatch(sentence):
        colour, shape, relation, other_colour, other_shape = match.groups()
        one = _find(scene, colour, shape)
        other = _find(scene, other_colour, other_shape)
        return [bool(one and other and relate(one, other) == relation)]
    return [False]


def _find(scene: Scene, colour: str, shape: str) -> Thing | None:
    return next((t for t in scene.things if (t.colour, t.shape) == (colour, shape)), None)
