"""The text tower's tokenizer: that of a pretrained BERT, or one built from the training texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from data.atomic import replace_whole
from data.errors import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class TextTokenizer:
    """A `tokenizers.Tokenizer` and the ids that training needs."""

    backend: Tokenizer
    pad_id: int
    mask_id: int
    vocab_size: int

    @property
    def end_ids(self) -> list[int]:
        """Ids of the tokens that end a sentence, as far as the vocabulary has them."""
        found = (self.backend.token_to_id(mark) for mark in (".", "!", "?"))
        return [token for token in found if token is not None]


def wrap(backend: Tokenizer, *, where: str) -> TextTokenizer:
    """Look the special ids up; padding and truncation are ours, so they are switched off."""
    backend.no_padding()
    backend.no_truncation()
    pad, mask = backend.token_to_id("[PAD]"), backend.token_to_id("[MASK]")
    if pad is None or mask is None:
        raise UserError(f"the tokenizer of {where} has no [PAD] or no [MASK] token")
    return TextTokenizer(backend, pad, mask, backend.get_vocab_size())


def load_pretrained(name: str) -> TextTokenizer:
    """The tokenizer of a hub model or local folder.

    Raises:
        UserError: it cannot be had, or is not one of the fast kind.
    """
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the tokenizer of {name} is neither in the Hugging Face cache nor to be had from the "
            f"hub; run `hf download {name}` where there is a network, or give a local folder with "
            "--set text.name=FOLDER"
        ) from error
    if not getattr(made, "is_fast", False):
        raise UserError(f"the tokenizer of {name} is not a fast one (tokenizer.json)")
    return wrap(Tokenizer.from_str(made.backend_tokenizer.to_str()), where=name)


def build(texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
    """BERT's normalisation and word split, with the commonest words of `texts` as vocabulary.

    A word outside of it is spelled by its letters, so no text of these letters is unknown. The same
    texts give the same vocabulary, ties falling to the alphabet.
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
    """Write `folder`/tokenizer.json, unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    path, content = folder / "tokenizer.json", tokenizer.backend.to_str(pretty=True).encode()
    if path.is_file() and path.read_bytes() == content:
        return
    with replace_whole(path) as temporary:
        temporary.write_bytes(content)


def load(folder: Path) -> TextTokenizer:
    """Read what `save` wrote.

    Raises:
        UserError: it is not there or damaged.
    """
    path = folder / "tokenizer.json"
    try:
        return wrap(Tokenizer.from_file(str(path)), where=str(folder))
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{path} cannot be read as a tokenizer: {error}") from error
