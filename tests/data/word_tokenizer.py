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


def words_of(ids: np.ndarray) -> list[str]:
    names = list(VOCAB)
    return [names[i] for i in ids]
