"""Token rows that are longer than a tower can read: cut, cut at a sentence, or sentences drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# cut: the first tokens. sentence: the first whole sentences. sample: whole sentences, drawn anew
# each time a training step reads the text, and the first ones at every other occasion.
WAYS = ("cut", "sentence", "sample")


def settle(way: str) -> str:
    """The way where nothing is drawn: at validation, in the teacher, of a trained model."""
    return "sentence" if way == "sample" else way


def count_kept(row: np.ndarray, *, limit: int, way: str, end_ids: Sequence[int]) -> int:
    """How many tokens of a row (L,) longer than `limit` stay before its closing token.

    With "sentence", those up to the last sentence that ends in time; all that fit if none does.
    """
    if way == "cut":
        return limit - 1
    ends = np.flatnonzero(np.isin(row[1 : limit - 1], end_ids)) + 2
    return int(ends[-1]) if len(ends) else limit - 1


def draw_sentences(
    rows: Sequence[np.ndarray],
    generators: Sequence[np.random.Generator],
    *,
    limit: int,
    end_ids: Sequence[int],
) -> list[np.ndarray]:
    """Of each row (L,) with more than `limit` tokens, whole sentences that fit, in their order.

    They are taken in random order as long as there is room; a text whose sentences are all too long
    keeps its first tokens. Row i draws from generators[i] alone, and only if it is too long.
    """
    return [
        row if len(row) <= limit else _draw(row, generator, limit=limit, end_ids=end_ids)
        for row, generator in zip(rows, generators, strict=True)
    ]


def _draw(
    row: np.ndarray, generator: np.random.Generator, *, limit: int, end_ids: Sequence[int]
) -> np.ndarray:
    body = row[1:-1]
    sentences = np.split(body, np.flatnonzero(np.isin(body, end_ids)) + 1)
    room, kept = limit - 2, []
    for index in generator.permutation(len(sentences)):
        size = len(sentences[index])
        if 0 < size <= room:
            kept.append(index)
            room -= size
    if not kept:
        return np.concatenate((row[: limit - 1], row[-1:]))
    return np.concatenate((row[:1], *(sentences[index] for index in sorted(kept)), row[-1:]))
