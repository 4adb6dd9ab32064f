"""Token ids stored once, and the text augmentation done on whole batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.files.atomic import replace_whole
from vse.model.tokenizer.long_texts import count_kept

# Of the words that the augmentation touches: masked below the first, replaced below the second,
# deleted above.
MASKED, REPLACED = 0.5, 0.6


class Encoding(Protocol):
    """What a `tokenizers.Encoding` gives."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def word_ids(self) -> list[int | None]: ...


class Tokenizer(Protocol):
    """What is needed of a `tokenizers.Tokenizer`."""

    def encode_batch(self, input: Any) -> Sequence[Encoding]: ...
    def to_str(self) -> str: ...


@dataclass(frozen=True)
class TokenStore:
    """Texts as token ids, end to end, with [CLS] and [SEP].

    ids: (T,) int32. words: (T,) int32, the index of a token's basic word in its text, -1 for
    special tokens. starts: (N + 1,) int64. cut: how many texts were longer than allowed.
    """

    ids: np.ndarray
    words: np.ndarray
    starts: np.ndarray
    cut: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Token ids of one text, (L,) int32."""
        return self.ids[self.starts[index] : self.starts[index + 1]]

    def word_index(self, index: int) -> np.ndarray:
        """Basic-word index of each token of one text, (L,) int32."""
        return self.words[self.starts[index] : self.starts[index + 1]]

    def lengths(self) -> np.ndarray:
        """(N,) tokens per text."""
        return np.diff(self.starts)


def tokenize(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    too_long: str = "cut",
    end_ids: Sequence[int] = (),
) -> TokenStore:
    """Tokenise every text once; of longer ones remains what `too_long` says, and the closing [SEP].

    Args:
        too_long: one of `vse.model.tokenizer.long_texts.WAYS`; with "sample" they stay whole
            here, for `draw_sentences` to choose from.
        end_ids: tokens that end a sentence.
    """
    ids: list[np.ndarray] = []
    words: list[np.ndarray] = []
    cut = 0
    for start in range(0, len(texts), 4096):
        # encode_batch_fast would leave the word indices out.
        for encoding in tokenizer.encode_batch(list(texts[start : start + 4096])):
            row = np.array(encoding.ids, dtype=np.int32)
            word = np.array([-1 if w is None else w for w in encoding.word_ids], dtype=np.int32)
            if len(row) > max_tokens:
                cut += 1
            if len(row) > max_tokens and too_long != "sample":
                kept = count_kept(row, limit=max_tokens, way=too_long, end_ids=end_ids)
                row = np.concatenate((row[:kept], row[-1:]))
                word = np.concatenate((word[:kept], word[-1:]))
            ids.append(row)
            words.append(word)
    starts = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in ids], out=starts[1:])
    empty = np.zeros(0, dtype=np.int32)
    return TokenStore(np.concatenate([*ids, empty]), np.concatenate([*words, empty]), starts, cut)


def tokenize_cached(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    folder: Path,
    too_long: str = "cut",
    end_ids: Sequence[int] = (),
) -> TokenStore:
    """`tokenize`, kept in `folder` under a name made of all that decides over it."""
    way = "" if too_long == "cut" else f" {too_long}"
    key = hashlib.sha256(f"3 {max_tokens}{way}\n{tokenizer.to_str()}".encode())
    for text in texts:
        content = text.encode()
        # With its length, for a text may hold whatever would stand between two.
        key.update(b"%d %s" % (len(content), content))
    path = folder / f"tokens-{key.hexdigest()[:16]}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return TokenStore(stored["ids"], stored["words"], stored["starts"], int(stored["cut"]))
    store = tokenize(texts, tokenizer, max_tokens=max_tokens, too_long=too_long, end_ids=end_ids)
    folder.mkdir(parents=True, exist_ok=True)
    with replace_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, ids=store.ids, words=store.words, starts=store.starts, cut=store.cut)
    return store


def sample_sentences(
    rows: Sequence[np.ndarray],
    generators: Sequence[np.random.Generator],
    *,
    most: int,
    end_ids: Sequence[int],
) -> list[np.ndarray]:
    """Of each text (L,) keep 1 to `most` of its sentences, drawn at random, in their order.

    A sentence ends with one of `end_ids`; the first and last token ([CLS] and [SEP]) stay. A full
    stop that the augmentation masked ends nothing. Row i draws from generators[i] alone.
    """
    return [
        _keep_sentences(row, generator, most=most, end_ids=end_ids)
        for row, generator in zip(rows, generators, strict=True)
    ]


def _keep_sentences(
    row: np.ndarray, generator: np.random.Generator, *, most: int, end_ids: Sequence[int]
) -> np.ndarray:
    body = row[1:-1]
    ends = np.flatnonzero(np.isin(body, end_ids)) + 1
    sentences = [part for part in np.split(body, ends) if len(part)]
    if not sentences:
        return row
    count = int(generator.integers(1, min(most, len(sentences)) + 1))
    kept = np.sort(generator.choice(len(sentences), size=count, replace=False))
    return np.concatenate([row[:1], *(sentences[int(i)] for i in kept), row[-1:]])


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

    Each word is touched with probability `share`: half of those become [MASK] piece by piece, a
    tenth random vocabulary entries, the rest vanish; without a mask token (None) those that it
    would have hidden vanish too. Special tokens stay. Sample i draws from
    generators[i] alone, so its text does not depend on its batch.
    """
    rows = [store[i] for i in indices]
    if share <= 0:
        return rows
    words = [store.word_index(i) for i in indices]
    counts = np.array([len(row) for row in rows])
    spoken = np.array([int(word.max(initial=-1)) + 1 for word in words])
    # Two draws a word (touched at all? how?) and one a token (which entry replaces it?).
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
    return np.split(ids[kept], np.cumsum(left)[:-1])
