"""How long the training texts are, from some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.model.tokenizer.tokens import sample_sentences
from vse.samples.corpus import Sample

LOOKED_AT = 2000
# Where the tokenizer cannot be had: pieces a word of English prose, and [CLS] and [SEP].
PIECES, ENDS = 1.3, 2


@dataclass(frozen=True)
class TextLengths:
    """Tokens of texts of one kind, before anything is cut. `cut`: the share beyond `limit`."""

    kind: str
    total: int
    lengths: tuple[int, ...]
    limit: int
    guessed: bool  # without the tokenizer, from the number of words

    @property
    def cut(self) -> float:
        return float(np.mean([length > self.limit for length in self.lengths]))


def measure_texts(
    samples: Sequence[Sample], kind: str, *, tokenizer: TextTokenizer | None, limit: int
) -> TextLengths:
    """Lengths of the "dense" or "sparse" texts of the samples."""
    texts = list_texts(samples, kind)
    chosen = _spread(texts)
    if tokenizer is None:
        lengths = [round(PIECES * len(text.split())) + ENDS for text in chosen]
    else:
        lengths = [len(found.ids) for found in tokenizer.encode_batch(chosen)]
    return TextLengths(kind, len(texts), tuple(lengths), limit, tokenizer is None)


def list_texts(samples: Sequence[Sample], kind: str) -> list[str]:
    """All of a kind."""
    if kind == "dense":
        return [sample.dense for sample in samples if sample.dense]
    return [caption for sample in samples for caption in sample.captions]


def draw_lengths(
    samples: Sequence[Sample], *, tokenizer: TextTokenizer, most: int, limit: int
) -> list[int]:
    """Tokens of what a step reads of dense texts where it draws 1 to `most` sentences of each."""
    chosen = _spread(list_texts(samples, "dense"))
    rows = [np.array(found.ids[:limit]) for found in tokenizer.encode_batch(chosen)]
    generators = [np.random.default_rng(index) for index in range(len(rows))]
    drawn = sample_sentences(rows, generators, most=most, end_ids=tokenizer.end_ids)
    return [len(row) for row in drawn]


def _spread(texts: Sequence[str]) -> list[str]:
    step = max(1, len(texts) // LOOKED_AT)
    return list(texts[::step][:LOOKED_AT])
