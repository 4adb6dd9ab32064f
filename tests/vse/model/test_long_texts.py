"""Of texts that are too long remain whole sentences, drawn or the first ones."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from tests.data.word_tokenizer import make_sentencepiece, make_tokenizer, words_of
from vse.model.tokenizer.tokenizer import wrap
from vse.model.tokenizer.tokens import tokenize, tokenize_cached
from vse.samples.augmentation import draw_sentences

TEXT = "a red ball. in the box. the sun."
STOP = [15]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.mark.parametrize(
    ("limit", "way", "expected"),
    [
        (10, "cut", "a red ball . in the box ."),
        (9, "cut", "a red ball . in the box"),
        (10, "sentence", "a red ball . in the box ."),
        (9, "sentence", "a red ball ."),
        (6, "sentence", "a red ball ."),
        (5, "sentence", "a red ball"),  # no sentence ends in time
        (13, "sentence", "a red ball . in the box . the sun ."),
    ],
)
def test_cut_at_a_token_or_after_a_sentence(
    tokenizer: Tokenizer,
    limit: int,
    way: str,
    expected: str,
) -> None:
    store = tokenize([TEXT], tokenizer, max_tokens=limit, too_long=way, end_ids=STOP)
    assert " ".join(words_of(store[0])) == f"[CLS] {expected} [SEP]"
    assert store.word_index(0).tolist() == [-1, *range(len(expected.split())), -1]
    assert store.cut == (limit < 13)


def test_sentences_are_drawn_whole_in_order_and_as_many_as_fit(
    tokenizer: Tokenizer,
) -> None:
    store = tokenize([TEXT, "a ball"], tokenizer, max_tokens=9, too_long="sample", end_ids=STOP)
    assert len(store[0]) == 13 and store.cut == 1  # whole in the store
    seen = set()
    for seed in range(60):
        rows = [
            draw_sentences(store[row], np.random.default_rng(seed), limit=9, end_ids=STOP)
            for row in range(2)
        ]
        seen.add(" ".join(words_of(rows[0])))
        np.testing.assert_array_equal(rows[1], store[1])
    first, second, third = "a red ball .", "in the box .", "the sun ."
    assert seen == {
        f"[CLS] {one} {other} [SEP]" for one, other in ((first, third), (second, third))
    }


def test_a_text_of_one_endless_sentence_keeps_its_first_tokens() -> None:
    row = np.array([2, *range(20, 40), 3], dtype=np.int32)
    kept = draw_sentences(row, np.random.default_rng(0), limit=6, end_ids=STOP)
    assert kept.tolist() == [2, 20, 21, 22, 23, 3]


@pytest.mark.parametrize("splits", [True, False])
def test_sentences_of_sentencepiece_end_and_begin_where_they_do(splits: bool) -> None:
    made = wrap(make_sentencepiece(splits=splits), where="here", pad_id=0)
    texts = ["a red ball.", " red!", " a ball."]
    first, second, third = (encoding.ids[:-1] for encoding in made.encode_batch(texts))
    assert made.edges == (0, 1) and set(made.end_ids) == {first[-1], second[-1]}
    store = tokenize(
        ["a red ball. red! a ball."], made, max_tokens=7, too_long="sample", end_ids=made.end_ids
    )
    settings = {"limit": 7, "end_ids": made.end_ids, "edges": made.edges}
    drawn = {
        tuple(draw_sentences(store[0], np.random.default_rng(seed), **settings).tolist())  # type: ignore
        for seed in range(40)
    }
    assert drawn == {(*first, *second, 0), (*second, *third, 0)}


def test_a_tokenizer_without_special_tokens_is_cut_to_the_same_length() -> None:
    bare = make_tokenizer()
    bare.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    for way, expected in (("cut", "a red ball . in"), ("sentence", "a red ball .")):
        store = tokenize([TEXT], bare, max_tokens=5, too_long=way, end_ids=STOP)
        assert " ".join(words_of(store[0])) == expected


def test_the_cache_tells_the_ways_apart(tokenizer: Tokenizer, tmp_path: Path) -> None:
    lengths = set()
    for way in ("cut", "sentence", "sample"):
        for _ in range(2):
            store = tokenize_cached(
                [TEXT], tokenizer, max_tokens=9, folder=tmp_path, too_long=way, end_ids=STOP
            )
        lengths.add(len(store[0]))
    assert lengths == {9, 6, 13} and len(list(tmp_path.iterdir())) == 3
