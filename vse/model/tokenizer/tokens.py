"""Token ids of many texts, stored once; long texts are cut, or kept whole for sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.files.atomic import replace_whole


class Encoding(Protocol):
    """The used attributes of a `tokenizers.Encoding`."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def word_ids(self) -> list[int | None]: ...


class Tokenizer(Protocol):
    """The used methods of a `tokenizers.Tokenizer`."""

    def encode_batch(self, input: Any) -> Sequence[Encoding]: ...
    def to_str(self) -> str: ...


@dataclass(frozen=True)
class TokenStore:
    """Texts as concatenated token ids, with [CLS] and [SEP].

    ids: (T,) int32. words: (T,) int32, the index of a token's basic word in its text, -1 for
    special tokens. starts: (N + 1,) int64. cut: number of texts that were too long. states:
    (T, W) float32, a frozen backbone's output for the tokens, or None.
    """

    ids: np.ndarray
    words: np.ndarray
    starts: np.ndarray
    cut: int
    states: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Token ids of one text, (L,) int32."""
        return self.ids[self.starts[index] : self.starts[index + 1]]

    def word_index(self, index: int) -> np.ndarray:
        """Basic-word index of each token of one text, (L,) int32."""
        return self.words[self.starts[index] : self.starts[index + 1]]

    def with_states(self, states: np.ndarray) -> TokenStore:
        return replace(self, states=states)

    def states_of(self, indices: Iterable[int]) -> np.ndarray | None:
        """The concatenated states of whole texts, (t, W)."""
        if self.states is None:
            return None
        return np.concatenate([self.states[self.starts[i] : self.starts[i + 1]] for i in indices])

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
    """Tokenize every text once; long ones are shortened by `too_long`, keeping the final [SEP].

    Args:
        too_long: one of `vse.recipes.settings.WAYS`; with "sample" they stay whole here, for
            `vse.samples.augmentation.draw_sentences`.
        end_ids: tokens that end a sentence.
    """
    ids: list[np.ndarray] = []
    words: list[np.ndarray] = []
    cut = 0
    for start in range(0, len(texts), 4096):
        # encode_batch_fast would omit the word indices.
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
    """`tokenize`, cached in `folder` under a hash of everything that affects the result."""
    way = "" if too_long == "cut" else f" {too_long}"
    key = hashlib.sha256(f"3 {max_tokens}{way}\n{tokenizer.to_str()}".encode())
    for text in texts:
        content = text.encode()
        # With its length, since a text can contain any separator.
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


def count_kept(row: np.ndarray, *, limit: int, way: str, end_ids: Sequence[int]) -> int:
    """Number of tokens to keep of a row (L,) longer than `limit`, before its final token.

    With "sentence", up to the last sentence that fits; all that fit if none does.
    """
    if way == "cut":
        return limit - 1
    ends = np.flatnonzero(np.isin(row[1 : limit - 1], end_ids)) + 2
    return int(ends[-1]) if len(ends) else limit - 1


def deterministic_way(way: str) -> str:
    """The deterministic variant: for validation, the teacher, and trained models."""
    return "sentence" if way == "sample" else way
