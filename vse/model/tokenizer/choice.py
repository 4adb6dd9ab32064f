"""Choosing the tokenizer of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from data.errors import UserError
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.model.tokenizer.tokens import tells_words
from vse.recipes import Recipe, TextTowerConfig


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


def check_tokenizer(tokenizer: TextTokenizer, recipe: Recipe, *, stage: str) -> None:
    """Refuse settings that need words or sentences that the tokenizer does not tell apart.

    Raises:
        UserError: they would have another effect than they say.
    """
    name = recipe.text.name
    where = f"the tokenizer of {name or 'the run'}"
    if recipe.data.word_mask and not tells_words(tokenizer):
        raise UserError(
            f"data.word_mask is {recipe.data.word_mask}, but {where} does not tell words "
            "apart, so whole texts would be masked: use --set data.word_mask=0"
        )
    # A vocabulary made from the texts lacks these marks only if no text has one.
    if name is None or tokenizer.end_ids:
        return
    settings = {
        "text.too_long=cut": recipe.text.too_long != "cut",
        "data.sentences=null": stage in ("1", "joint") and recipe.data.sentences is not None,
    }
    for instead, used in settings.items():
        if used:
            raise UserError(
                f"{instead.split('=')[0]} needs sentences, but {where} has no tokens "
                f"that end one (. ! ?): use --set {instead}"
            )


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
