"""Token ids stored once, and the augmentation of whole batches."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.data.word_tokenizer import (
    MASK,
    VOCAB,
    make_sentencepiece,
    make_tokenizer,
    words_of,
)
from vse.model.tokenizer.tokens import TokenStore, tells_words, tokenize, tokenize_cached
from vse.samples.augmentation import augment_batch, sample_sentences


@pytest.fixture
def tokenizer() -> Tokenizer:
    return make_tokenizer()


def test_texts_become_ids_with_the_word_of_each_piece(tokenizer: Tokenizer) -> None:
    store = tokenize(["A red sunflower.", "the BOX"], tokenizer, max_tokens=20)
    assert len(store) == 2 and store.cut == 0
    assert words_of(store[0]) == ["[CLS]", "a", "red", "sun", "##flow", "##er", ".", "[SEP]"]
    assert store.word_index(0).tolist() == [-1, 0, 1, 2, 2, 2, 3, -1]
    assert words_of(store[1]) == ["[CLS]", "the", "box", "[SEP]"]
    assert store.lengths().tolist() == [8, 4]


def test_words_of_a_tokenizer_that_never_splits_begin_with_spaces() -> None:
    text = "a red ball. a ball"
    [whole] = make_sentencepiece(splits=False).encode_batch([text])
    assert whole.word_ids == [0] * 6 + [None]
    stores = [
        tokenize([text], make_sentencepiece(splits=splits), max_tokens=9)
        for splits in (True, False)
    ]
    for store in stores:
        assert store.word_index(0).tolist() == [0, 1, 2, 2, 3, 4, -1]
    rows = augmented(stores[1], share=0.5, rounds=50)
    assert any(3 < len(row) < 7 for row in rows)  # some words are deleted, others stay


def test_words_that_cannot_be_told_apart(tokenizer: Tokenizer) -> None:
    assert tells_words(tokenizer) and tells_words(make_sentencepiece(splits=False))
    assert not tells_words(make_sentencepiece(splits=False, spaces=False))


def test_long_texts_are_cut_before_the_last_token_and_counted(tokenizer: Tokenizer) -> None:
    store = tokenize(["a red sunflower in the box", "a ball"], tokenizer, max_tokens=5)
    assert words_of(store[0]) == ["[CLS]", "a", "red", "sun", "[SEP]"]
    assert store.word_index(0).tolist() == [-1, 0, 1, 2, -1]
    assert store.cut == 1


def test_no_texts(tokenizer: Tokenizer) -> None:
    assert len(tokenize([], tokenizer, max_tokens=5)) == 0


def test_the_cache_is_read_and_belongs_to_texts_tokenizer_and_limit(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a red sunflower", "a ball"]
    first = tokenize_cached(texts, tokenizer, max_tokens=9, folder=tmp_path)
    calls = []
    monkeypatch.setattr(
        "vse.model.tokenizer.tokens.tokenize", lambda *a, **k: calls.append(a) or first
    )
    again = tokenize_cached(texts, tokenizer, max_tokens=9, folder=tmp_path)
    for name in ("ids", "words", "starts"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert calls == []
    tokenize_cached(texts, tokenizer, max_tokens=8, folder=tmp_path)
    tokenize_cached(texts[::-1], tokenizer, max_tokens=9, folder=tmp_path)
    assert len(calls) == 2
    # Texts may have line ends: these two lists differ by where one text ends alone.
    for split in (["a\nred", "ball"], ["a", "red\nball"]):
        tokenize_cached(split, tokenizer, max_tokens=9, folder=tmp_path)
    assert len(calls) == 4


def augmented(store: TokenStore, *, share: float, rounds: int) -> list[np.ndarray]:
    rows = []
    for k in range(rounds):
        generators = [np.random.default_rng([k, i]) for i in range(len(store))]
        rows += augment_batch(
            store, range(len(store)), generators, share=share, mask_id=MASK, vocab_size=len(VOCAB)
        )
    return rows


def test_shares_of_masked_replaced_and_deleted_words(tokenizer: Tokenizer) -> None:
    store = tokenize(["sunflower"], tokenizer, max_tokens=9)
    found: Counter[str] = Counter()
    for row in augmented(store, share=0.2, rounds=4000):
        assert row[0] == 2 and row[-1] == 3  # [CLS] and [SEP] stay
        inner = words_of(row[1:-1])
        if inner == ["sun", "##flow", "##er"]:
            found["kept"] += 1
        elif inner == ["[MASK]"] * 3:
            found["masked"] += 1  # all pieces of the word
        elif not inner:
            found["deleted"] += 1
        else:
            assert len(inner) == 3
            found["replaced"] += 1
    shares = {name: count / 4000 for name, count in found.items()}
    expected = {"kept": 0.8, "masked": 0.1, "replaced": 0.02, "deleted": 0.08}
    assert shares == pytest.approx(expected, abs=0.02)


def test_words_of_a_text_are_touched_one_by_one(tokenizer: Tokenizer) -> None:
    store = tokenize(["a red ball in the box"], tokenizer, max_tokens=9)
    masked = [words_of(row).count("[MASK]") for row in augmented(store, share=0.5, rounds=500)]
    assert np.mean(masked) == pytest.approx(6 * 0.5 * 0.5, abs=0.15)
    assert len(set(masked)) > 3


def test_a_text_does_not_depend_on_its_batch(tokenizer: Tokenizer) -> None:
    store = tokenize(["a red ball", "in the box .", "sunflower"], tokenizer, max_tokens=9)
    together = augmented(store, share=0.6, rounds=1)
    for index in range(3):
        alone = augment_batch(
            store, [index], [np.random.default_rng([0, index])],
            share=0.6, mask_id=MASK, vocab_size=len(VOCAB),
        )  # fmt: skip
        np.testing.assert_array_equal(alone[0], together[index])


def test_share_zero_and_one(tokenizer: Tokenizer) -> None:
    store = tokenize(["a red ball", ""], tokenizer, max_tokens=9)
    kept = augmented(store, share=0.0, rounds=1)
    np.testing.assert_array_equal(kept[0], store[0])
    touched = augmented(store, share=1.0, rounds=50)
    assert not any(np.array_equal(row, store[0]) for row in touched[::2])
    assert all(row.tolist() == [2, 3] for row in touched[1::2])


def test_sampled_sentences_are_whole_in_order_and_between_the_special_tokens() -> None:
    row = np.array([101, 1, 2, 9, 3, 9, 4, 5, 6, 9, 7, 102], dtype=np.int32)
    sentences = [(1, 2, 9), (3, 9), (4, 5, 6, 9), (7,)]
    seen = set()
    for seed in range(200):
        kept = sample_sentences(row, np.random.default_rng(seed), most=2, end_ids=[9])
        assert kept[0] == 101 and kept[-1] == 102
        body = tuple(int(token) for token in kept[1:-1])
        options = [
            (i, j) for i in range(4) for j in range(i, 4)
            if body == (sentences[i] if i == j else sentences[i] + sentences[j])
        ]  # fmt: skip
        assert len(options) == 1
        seen.add(options[0])
    # Every single sentence and every pair comes up: ten ways.
    assert len(seen) == 10


def test_without_special_tokens_the_edges_belong_to_sentences() -> None:
    row = np.array([1, 2, 9, 3, 9], dtype=np.int32)
    seen = {
        tuple(sample_sentences(row, np.random.default_rng(s), most=1, end_ids=[9], edges=(0, 0)))
        for s in range(20)
    }
    assert seen == {(1, 2, 9), (3, 9)}


def test_a_text_without_sentences_stays() -> None:
    row = np.array([101, 102], dtype=np.int32)
    kept = sample_sentences(row, np.random.default_rng(0), most=3, end_ids=[9])
    assert kept.tolist() == [101, 102]
