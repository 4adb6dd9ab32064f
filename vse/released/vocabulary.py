"""The tokenizer of a released checkpoint, which holds none."""

from __future__ import annotations

from pathlib import Path

from data.errors import UserError
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.choice import load_pretrained
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.runs.config import TOKENIZER

BERT = "bert-base-uncased"  # the only one that the released code uses


def find_tokenizer(name: str) -> TextTokenizer:
    """The tokenizer of a run's folder, of a folder with a tokenizer.json, or of a hub model.

    Raises:
        UserError: it cannot be had.
    """
    for folder in (Path(name) / TOKENIZER, Path(name)):
        # A model's own folder has more beside it, which transformers reads.
        if (folder / "tokenizer.json").is_file() and not (folder / "config.json").is_file():
            return tokenizers.load(folder)
    try:
        return load_pretrained(name)
    except UserError as error:
        raise UserError(
            f"the tokenizer of {name} cannot be had: run `hf download {name}` where there is a "
            "network, or name a folder that holds its tokenizer.json with --tokenizer"
        ) from error
