"""All random augmentation of a sample: crop, dropped tokens, changed words, kept sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vse.model.tokenizer.tokens import TokenStore

# Thresholds for the words that are changed: masked below the first, replaced below the second,
# deleted above.
MASKED, REPLACED = 0.5, 0.6


@dataclass(frozen=True)
class Crop:
    """A part of an image in fractions of its sides (left, top, right, bottom), flipped or not."""

    box: tuple[float, float, float, float]
    mirror: bool


WHOLE = Crop((0.0, 0.0, 1.0, 1.0), False)


def draw_crop(generator: np.random.Generator, *, crop_min: float, flip: float) -> Crop:
    """The same share r ~ U(crop_min, 1) of both sides, randomly placed; `flip`: probability."""
    side, left, top, mirror = generator.random(4)
    share = crop_min + (1 - crop_min) * side
    x, y = left * (1 - share), top * (1 - share)
    return Crop((x, y, x + share, y + share), bool(mirror < flip))


def draw_token_drop(generator: np.random.Generator, *, count: int, rate: float) -> np.ndarray:
    """Size augmentation: u ~ U(0, 1); above `rate`, drop each token with probability rate * u.

    Returns (count,) bool, True = dropped.
    """
    draws = generator.random(count + 1)
    u = draws[0]
    return (draws[1:] < rate * u) & (u > rate)


def augment_batch(
    store: TokenStore,
    indices: Sequence[int],
    generators: Sequence[np.random.Generator],
    *,
    share: float,
    mask_id: int | None,
    vocab_size: int,
) -> list[np.ndarray]:
    """Token ids of the texts with some basic words changed, all pieces of a word alike.

    Each word is changed with probability `share`: half of those become [MASK] piece by piece, a
    tenth random vocabulary entries, and the rest are deleted; without a mask token (None), words to
    be masked are deleted too. Special tokens stay. Sample i draws from generators[i] alone, so its
    text does not depend on its batch.
    """
    rows = [store[i] for i in indices]
    if share <= 0:
        return rows
    words = [store.word_index(i) for i in indices]
    counts = np.array([len(row) for row in rows])
    spoken = np.array([int(word.max(initial=-1)) + 1 for word in words])
    # Two draws per word (changed at all? how?) and one per token (which entry replaces it?).
    draws = [g.random(2 * s + c) for g, s, c in zip(generators, spoken, counts, strict=True)]
    touch = np.concatenate([d[:s] for d, s in zip(draws, spoken, strict=True)])
    manner = np.concatenate([d[s : 2 * s] for d, s in zip(draws, spoken, strict=True)])
    entry = np.concatenate([d[2 * s :] for d, s in zip(draws, spoken, strict=True)])

    ids, word = np.concatenate(rows), np.concatenate(words)
    offset = np.repeat(np.cumsum(spoken) - spoken, counts)
    place = np.where(word < 0, 0, word + offset)
    if len(touch) == 0:
        return rows
    touched = (word >= 0) & (touch[place] < share)
    how = manner[place]
    masked = touched & (how < MASKED)
    if mask_id is not None:
        ids = np.where(masked, mask_id, ids)
    replaced = touched & (how >= MASKED) & (how < REPLACED)
    ids = np.where(replaced, (entry * vocab_size).astype(np.int32), ids).astype(np.int32)
    kept = ~(touched & (how >= REPLACED))
    if mask_id is None:
        kept &= ~masked
    ends = np.cumsum(counts)
    left = np.add.reduceat(kept.astype(np.int64), ends - counts)
    if not left.all():
        # Without special tokens, nothing would be left to embed.
        kept |= np.repeat(left == 0, counts)
        left = np.where(left == 0, counts, left)
    return np.split(ids[kept], np.cumsum(left)[:-1])


def sample_sentences(
    row: np.ndarray,
    generator: np.random.Generator,
    *,
    most: int,
    end_ids: Sequence[int],
    edges: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Keep 1 to `most` random sentences of a text (L,), in their order.

    A sentence ends with one of `end_ids`; special tokens at the `edges` ([CLS] and [SEP]) stay. A
    masked full stop does not end a sentence.
    """
    first, body, last = _cut_edges(row, edges)
    sentences = [part for part in _split(body, end_ids) if len(part)]
    if not sentences:
        return row
    count = int(generator.integers(1, min(most, len(sentences)) + 1))
    kept = np.sort(generator.choice(len(sentences), size=count, replace=False))
    return np.concatenate([first, *(sentences[int(i)] for i in kept), last])


def draw_sentences(
    row: np.ndarray,
    generator: np.random.Generator,
    *,
    limit: int,
    end_ids: Sequence[int],
    edges: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Shorten a text (L,) of more than `limit` tokens to random whole sentences, in their order.

    Sentences are taken in random order as long as they fit; a text whose sentences are all too long
    keeps its first tokens. No random numbers are drawn for texts that are short enough.
    """
    if len(row) <= limit:
        return row
    first, body, last = _cut_edges(row, edges)
    sentences = _split(body, end_ids)
    room, kept = limit - sum(edges), []
    for index in generator.permutation(len(sentences)):
        size = len(sentences[index])
        if 0 < size <= room:
            kept.append(index)
            room -= size
    if not kept:
        return np.concatenate((row[: limit - len(last)], last))
    return np.concatenate((first, *(sentences[index] for index in sorted(kept)), last))


def _cut_edges(row: np.ndarray, edges: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """The special token before a text, the text, and the special token after it."""
    return tuple(np.split(row, [edges[0], len(row) - edges[1]]))


def _split(body: np.ndarray, end_ids: Sequence[int]) -> list[np.ndarray]:
    return np.split(body, np.flatnonzero(np.isin(body, end_ids)) + 1)
