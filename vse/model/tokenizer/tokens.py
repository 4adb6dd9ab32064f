"""Token ids of many texts, stored once; long texts are cut, or kept whole for sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.files.atomic import replace_whole

# What stands for a space before a word, in the tokens of sentencepiece and of byte-level BPE.
SPACES = ("▁", "Ġ")


class Encoding(Protocol):
    """The used attributes of a `tokenizers.Encoding`."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def tokens(self) -> list[str]: ...
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
    """Tokenize every text once; long ones are shortened by `too_long`, keeping a final [SEP].

    Args:
        too_long: one of `vse.recipes.settings.WAYS`; with "sample" they stay whole here, for
            `vse.samples.augmentation.draw_sentences`.
        end_ids: tokens that end a sentence.
    """
    ids: list[np.ndarray] = []
    words: list[np.ndarray] = []
    cut = 0
    spaces = SPACES if _joins_words(tokenizer) else ()
    for start in range(0, len(texts), 4096):
        # encode_batch_fast would omit the word indices.
        for encoding in tokenizer.encode_batch(list(texts[start : start + 4096])):
            row = np.array(encoding.ids, dtype=np.int32)
            word = _find_words(encoding, spaces)
            if len(row) > max_tokens:
                cut += 1
            if len(row) > max_tokens and too_long != "sample":
                tail = len(row) - int(word[-1] < 0)  # some tokenizers have no final token
                room = max_tokens - (len(row) - tail)
                kept = count_kept(row, room=room, way=too_long, end_ids=end_ids)
                row = np.concatenate((row[:kept], row[tail:]))
                word = np.concatenate((word[:kept], word[tail:]))
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
    key = hashlib.sha256(f"4 {max_tokens}{way}\n{tokenizer.to_str()}".encode())
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


def tells_words(tokenizer: Tokenizer) -> bool:
    """Whether `tokenize` finds the words of a text, so that one of them can be changed."""
    return bool(tokenize(["a red ball"], tokenizer, max_tokens=99).words.max(initial=0) > 0)


def _joins_words(tokenizer: Tokenizer) -> bool:
    """Whether a whole text is one word to a tokenizer, like Gemma's, which never splits."""
    [encoding] = tokenizer.encode_batch(["a red ball"])
    return len({word for word in encoding.word_ids if word is not None}) < 2


def _find_words(encoding: Encoding, spaces: tuple[str, ...]) -> np.ndarray:
    """Word index of each token, (L,) int32; a token that begins with one of `spaces` begins one."""
    words = np.array([-1 if w is None else w for w in encoding.word_ids], dtype=np.int32)
    if not spaces:
        return words
    begins = np.diff(words, prepend=-1) != 0
    begins |= np.array([token.startswith(spaces) for token in encoding.tokens], dtype=bool)
    spoken = words >= 0
    words[spoken] = np.cumsum(begins[spoken]) - 1
    return words


def count_kept(row: np.ndarray, *, room: int, way: str, end_ids: Sequence[int]) -> int:
    """Number of tokens to keep of the first `room` of a row (L,).

    With "sentence", up to the last sentence that fits; all that fit if none does.
    """
    if way == "cut":
        return room
    ends = np.flatnonzero(np.isin(row[1:room], end_ids)) + 2
    return int(ends[-1]) if len(ends) else room


def deterministic_way(way: str) -> str:
    """The deterministic variant: for validation, the teacher, and trained models."""
    return "sentence" if way == "sample" else way
