"""Which tokenizer a run reads its texts with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.recipes import Recipe
from vse.runs.checkpoint_names import TOKENIZER
from vse.samples.corpus import Corpus


def settle_tokenizer(
    recipe: Recipe, corpus: Corpus, *, before: Sequence[Path | None]
) -> TextTokenizer:
    """That of the first of the runs `before` that has one, the pretrained tower's, or a new one.

    Raises:
        UserError: it cannot be had.
    """
    for folder in before:
        if folder is not None and (folder / TOKENIZER / tokenizers.FILE).is_file():
            return tokenizers.load(folder / TOKENIZER)
    text = recipe.text
    if text.name is not None:
        return tokenizers.load_pretrained(text.name)
    train = corpus.splits["train"]
    # Stage 2 reads the sparse captions with stage 1's tokenizer, so their words belong in it.
    texts = [caption for sample in train for caption in sample.captions]
    texts += [sample.dense for sample in train if sample.dense]
    return tokenizers.build(texts, vocab_size=text.vocab_size)
