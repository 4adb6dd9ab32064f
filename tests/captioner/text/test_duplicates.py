"""The same text at many images."""

import pyarrow as pa
import pytest

from captioner.text.duplicates import find_duplicates

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


def test_three_different_images_make_a_duplicate() -> None:
    texts = ["One dog.", "Two dogs.", "one  DOG.", "One dog.\n", "Two dogs.", "Two dogs."]
    images = [A, A, B, C, B, B]
    # "Two dogs." stands three times, but only at two different images.
    assert find_duplicates(texts, images).tolist() == [True, False, True, True, False, False]


def test_without_a_hash_each_row_is_an_image() -> None:
    assert find_duplicates(["x", "x", "x"], [None, None, None]).all()
    assert not find_duplicates(["x", "x", "y"], [None, None, None]).any()
    assert find_duplicates(["x", "x", "x"], [A, None, B]).all()
    assert not find_duplicates(["x", "x", "x"], [A, A, None]).any()


def test_missing_and_empty_texts_are_none() -> None:
    texts = [None, None, None, " ", "", "\n"]
    assert not find_duplicates(texts, [A, B, C, A, B, C]).any()
    assert find_duplicates([], []).tolist() == []


def test_arrow_columns_of_many_chunks_give_the_same() -> None:
    texts = [f"text {number % 7}" for number in range(40)]
    images = [f"{number // 3:064x}" for number in range(40)]
    plain = find_duplicates(texts, images)
    chunks = [pa.array(texts[start : start + 9]) for start in range(0, 40, 9)]
    assert find_duplicates(pa.chunked_array(chunks), pa.array(images)).tolist() == plain.tolist()
    seen = {text: {i for t, i in zip(texts, images, strict=True) if t == text} for text in texts}
    assert plain.tolist() == [len(seen[text]) >= 3 for text in texts]


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 texts, but 1"):
        find_duplicates(["a", "b"], [A])
