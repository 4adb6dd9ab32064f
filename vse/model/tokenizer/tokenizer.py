"""The text tower's tokenizer: a pretrained one, or one built from the training texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from data.errors import UserError
from data.files.atomic import replace_whole
from vse.model.tokenizer.tokens import Encoding

# open_clip's cleaning functions.
CLEANERS = ("lower", "whitespace", "canonicalize")
FILE, SPECIAL_FILE = "tokenizer.json", "special.json"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class TextTokenizer:
    """A `tokenizers.Tokenizer` and additional information for training.

    mask_id is None if the vocabulary has no mask token. clean: open_clip's cleaning before
    tokenization (lower, whitespace, canonicalize), None if the backend does everything.
    """

    backend: Tokenizer
    pad_id: int
    mask_id: int | None
    vocab_size: int
    clean: str | None = None

    @property
    def end_ids(self) -> list[int]:
        """Ids of the tokens that end a sentence, if the tokenizer has them."""
        # After a word: alone, a mark begins with a space to some tokenizers, and has another id.
        word, *ended = _clean(["a", "a.", "a!", "a?"], self.clean)
        before = self.backend.encode(word, add_special_tokens=False).ids
        found = [self.backend.encode(text, add_special_tokens=False).ids for text in ended]
        unknown = [self.backend.token_to_id(token) for token in ("[UNK]", "<unk>")]
        return [i[-1] for i in found if i[:-1] == before and i[-1] not in unknown]

    @property
    def edges(self) -> tuple[int, int]:
        """1 or 0: whether a special token precedes a text, and whether one follows it."""
        words = self.encode_batch(["a"])[0].word_ids
        return int(words[:1] == [None]), int(words[-1:] == [None])

    def encode_batch(self, input: Any) -> Sequence[Encoding]:
        """Token ids and word indices of texts; lone surrogates become "?"."""
        texts = [text.encode("utf-8", "replace").decode() for text in input]
        return self.backend.encode_batch(_clean(texts, self.clean))

    def to_str(self) -> str:
        """A string that identifies the tokenizer."""
        return self.backend.to_str() + (self.clean or "")


def wrap(
    backend: Tokenizer,
    *,
    where: str,
    pad_id: int | None = None,
    mask_id: int | None = None,
    clean: str | None = None,
) -> TextTokenizer:
    """Wrap a tokenizer; its own padding and truncation are switched off.

    Args:
        pad_id, mask_id: looked up as [PAD] and [MASK] by default.
    """
    backend.no_padding()
    backend.no_truncation()
    if pad_id is None:
        pad_id, mask_id = backend.token_to_id("[PAD]"), backend.token_to_id("[MASK]")
    if pad_id is None:
        raise UserError(f"the tokenizer of {where} has no padding token")
    return TextTokenizer(backend, pad_id, mask_id, backend.get_vocab_size(), clean)


def adopt(made: Any, *, where: str, clean: str | None = None) -> TextTokenizer:
    """Wrap a tokenizer of transformers."""
    if not getattr(made, "is_fast", False):
        raise UserError(f"the tokenizer of {where} is not a fast one (tokenizer.json)")
    backend = Tokenizer.from_str(made.backend_tokenizer.to_str())
    pad, mask = made.pad_token_id, made.mask_token_id
    return wrap(backend, where=where, pad_id=pad, mask_id=mask, clean=clean)


def build(texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
    """BERT's normalization and splitting, with the most frequent words of `texts`.

    Other words are spelled by letters, so that no text with these letters is unknown. The same
    texts give the same vocabulary; ties are broken alphabetically.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        pieces = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        words.update(piece for piece, _ in pieces)
    letters = sorted({letter for word in words for letter in word})
    entries = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    if len(entries) >= vocab_size:
        raise UserError(
            f"text.vocab_size is {vocab_size}, but letters alone take {len(entries)}: raise it"
        )
    known = set(entries)
    ranked = sorted(words, key=lambda word: (-words[word], word))
    entries += [word for word in ranked if word not in known][: vocab_size - len(entries)]
    vocab = {entry: index for index, entry in enumerate(entries)}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizer
    backend.pre_tokenizer = splitter
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    backend.add_special_tokens(list(SPECIAL))
    return wrap(backend, where="the training texts")


def save(tokenizer: TextTokenizer, folder: Path) -> None:
    """Write `folder`/tokenizer.json, unless it is there already.

    special.json is added if [PAD] and [MASK] are not enough; that of another tokenizer is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backend = tokenizer.backend
    special = {"pad_id": tokenizer.pad_id, "mask_id": tokenizer.mask_id, "clean": tokenizer.clean}
    plain = {"pad_id": backend.token_to_id("[PAD]"), "mask_id": backend.token_to_id("[MASK]")}
    if special != {**plain, "clean": None}:
        _write(folder / SPECIAL_FILE, json.dumps(special))
    else:
        (folder / SPECIAL_FILE).unlink(missing_ok=True)
    _write(folder / FILE, backend.to_str(pretty=True))


def _write(path: Path, content: str) -> None:
    if path.is_file() and path.read_bytes() == content.encode():
        return
    with replace_whole(path) as temporary:
        temporary.write_bytes(content.encode())


def load(folder: Path) -> TextTokenizer:
    """Read what `save` wrote; older runs have no special.json, but [PAD] and [MASK].

    Raises:
        UserError: it is missing or damaged.
    """
    path, special = folder / FILE, folder / SPECIAL_FILE
    known: dict[str, Any] = {}
    try:
        backend = Tokenizer.from_file(str(path))
        if special.is_file():
            known = _check_special(json.loads(special.read_text(encoding="utf-8")))
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{path} cannot be read as a tokenizer: {error}") from error
    return wrap(backend, where=str(folder), **known)


def _check_special(known: Any) -> dict[str, Any]:
    fits = {"pad_id": (int,), "mask_id": (int, type(None)), "clean": (str, type(None))}
    if not isinstance(known, dict) or known.keys() != fits.keys():
        raise ValueError(f"{SPECIAL_FILE} must have {', '.join(fits)}")
    if not all(isinstance(known[key], kinds) for key, kinds in fits.items()):
        raise ValueError(f"{SPECIAL_FILE} has values of another type")
    if known["clean"] not in (None, *CLEANERS):
        raise ValueError(f"{SPECIAL_FILE} names a cleaning that is not known: {known['clean']}")
    return known


def _clean(texts: Sequence[str], how: str | None) -> Sequence[str]:
    if how is None:
        return texts
    from open_clip.tokenizer import get_clean_fn

    clean = get_clean_fn(how)
    return [clean(text) for text in texts]
