"""A tokenizer of a few words."""

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "red", "green", "ball", "sun", "##flow", "##er", "in", "the", "box", ".")
VOCAB = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
MASK = VOCAB["[MASK]"]


def make_tokenizer() -> Tokenizer:
    """Words and pieces of VOCAB, [CLS] before and [SEP] after."""
    made = Tokenizer(models.WordPiece(VOCAB, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def make_sentencepiece(*, splits: bool, spaces: bool = True) -> Tokenizer:
    """Words like T5's, or one for a whole text like Gemma's or without `spaces`; </s> after."""
    pieces = ("</s>", "<unk>", ".", "!", *"abdelr▁ ", "▁a", "▁red", "▁ball", "ball")
    made = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1))
    if splits:
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    elif spaces:
        made.normalizer = normalizers.Replace(" ", "▁")
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 0)]
    )
    return made


def words_of(ids: np.ndarray) -> list[str]:
    names = list(VOCAB)
    return [names[i] for i in ids]
