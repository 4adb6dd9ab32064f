"""Choosing the tokenizer of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from data.errors import UserError
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.recipes import TextTowerConfig


def choose_tokenizer(
    text: TextTowerConfig, texts: Iterable[str], *, before: Sequence[Path]
) -> TextTokenizer:
    """The first that lies in a folder of `before`, the pretrained tower's, or one built of `texts`.

    Raises:
        UserError: it is not available.
    """
    for folder in before:
        if (folder / tokenizers.FILE).is_file():
            return tokenizers.load(folder)
    if text.name is not None:
        return load_pretrained(text.name)
    return tokenizers.build(texts, vocab_size=text.vocab_size)


def load_pretrained(name: str) -> TextTokenizer:
    """The tokenizer of a hub model or local folder, or of a model of open_clip.

    Raises:
        UserError: it is not available, or is not a fast tokenizer.
    """
    if name.startswith("open_clip:"):
        from vse.model.tokenizer.open_clip import load_open_clip

        return load_open_clip(name)
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the tokenizer of {name} is neither in the Hugging Face cache nor available from the "
            f"Hub; run `hf download {name}` where there is a network, or use a local folder "
            "(text.name=FOLDER; `d2s convert --tokenizer FOLDER`)"
        ) from error
    return tokenizers.adopt(made, where=name)
