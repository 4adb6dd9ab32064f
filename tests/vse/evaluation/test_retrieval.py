"""Ranks by counting against a naive twin that sorts, with ties against the model."""

import tracemalloc

import numpy as np
import pytest

from vse.evaluation import tiles
from vse.evaluation.retrieval import NotFiniteError, Ranks, rank, recalls


def naive_ranks(images: np.ndarray, texts: np.ndarray, image_of: np.ndarray) -> Ranks:
    """Sort each row; among equal scores the wrong answers come first."""
    scores = images @ texts.T
    i2t = []
    for image, row in enumerate(scores):
        wrong_first = sorted(range(len(texts)), key=lambda m: (-row[m], image_of[m] == image))
        i2t.append(next(k for k, m in enumerate(wrong_first) if image_of[m] == image))
    t2i = []
    for text, row in enumerate(scores.T):
        order = sorted(range(len(images)), key=lambda n: (-row[n], n == image_of[text]))
        t2i.append(order.index(image_of[text]))
    return Ranks(np.array(i2t), np.array(t2i))


def draw_world(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """7 images and 19 texts of whole numbers: many exact ties, and no rounding to hide behind."""
    rng = np.random.default_rng(seed)
    images = rng.integers(-2, 3, (7, 3)).astype(np.float32)
    texts = rng.integers(-2, 3, (19, 3)).astype(np.float32)
    return images, texts, rng.permutation(np.concatenate([np.arange(7), rng.integers(0, 7, 12)]))


BLOCKS = pytest.mark.parametrize("images_texts", [(1, 1), (2, 4), (3, 100), (480, 2400)])


@BLOCKS
def test_equals_the_naive_twin(
    monkeypatch: pytest.MonkeyPatch, images_texts: tuple[int, int]
) -> None:
    monkeypatch.setattr(tiles, "BLOCK_IMAGES", images_texts[0])
    monkeypatch.setattr(tiles, "BLOCK_TEXTS", images_texts[1])
    for seed in range(20):
        images, texts, image_of = draw_world(seed)
        found, expected = rank(images, texts, image_of), naive_ranks(images, texts, image_of)
        np.testing.assert_array_equal(found.i2t, expected.i2t)
        np.testing.assert_array_equal(found.t2i, expected.t2i)


@BLOCKS
def test_what_is_found_first_equals_a_full_sort(
    monkeypatch: pytest.MonkeyPatch, images_texts: tuple[int, int]
) -> None:
    monkeypatch.setattr(tiles, "BLOCK_IMAGES", images_texts[0])
    monkeypatch.setattr(tiles, "BLOCK_TEXTS", images_texts[1])
    for seed in range(20):
        images, texts, image_of = draw_world(seed)
        scores = images @ texts.T
        found = rank(images, texts, image_of, keep=5)
        assert found.texts is not None and found.images is not None
        for image, row in enumerate(scores):
            order = sorted(range(19), key=lambda m: (-row[m], image_of[m] == image, m))[:5]
            assert found.texts.ids[image].tolist() == order
            np.testing.assert_array_equal(found.texts.scores[image], row[order])
        for text, row in enumerate(scores.T):
            order = sorted(range(7), key=lambda n: (-row[n], n == image_of[text], n))[:5]
            assert found.images.ids[text].tolist() == order
            # The rank and the place in the list are the same thing.
            if found.t2i[text] < 5:
                assert order[found.t2i[text]] == image_of[text]


def test_more_is_asked_for_than_there_is() -> None:
    found = rank(*draw_world(0), keep=10)
    assert found.images is not None and found.texts is not None
    assert found.images.ids.shape == (19, 7) and found.texts.ids.shape == (7, 10)


def test_negative_zero_ties_with_zero() -> None:
    images = np.array([[1.0], [1.0]], dtype=np.float32)
    texts = np.array([[-0.0], [0.0]], dtype=np.float32)
    found = rank(images, texts, np.array([0, 1]), keep=2)
    assert found.images is not None and found.texts is not None
    assert found.images.ids.tolist() == [[1, 0], [0, 1]] == found.texts.ids.tolist()
    assert found.t2i.tolist() == [1, 1]


def test_memory_is_that_of_a_block() -> None:
    """All scores would be 72 MB."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3000, 4), dtype=np.float32)
    texts = rng.standard_normal((6000, 4), dtype=np.float32)
    tracemalloc.start()
    rank(images, texts, np.repeat(np.arange(3000), 2), keep=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6


def test_one_image_with_more_texts_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "BLOCK_IMAGES", 4)
    monkeypatch.setattr(tiles, "BLOCK_TEXTS", 8)
    rng = np.random.default_rng(0)
    images = rng.integers(-2, 3, (9, 3)).astype(np.float32)
    texts = rng.integers(-2, 3, (69, 3)).astype(np.float32)
    image_of = np.concatenate([np.arange(9), np.full(60, 4)])
    widest = max(tile.scores.size for tile in tiles.ScoreTiles(images, texts, np.sort(image_of)))
    assert widest <= 61  # its 61 texts with one image at a time
    found, expected = rank(images, texts, image_of), naive_ranks(images, texts, image_of)
    np.testing.assert_array_equal(found.i2t, expected.i2t)
    np.testing.assert_array_equal(found.t2i, expected.t2i)


def test_by_hand() -> None:
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[0.9, 0.5, 0.1], [0.2, 0.3, 0.8], [0.4, 0.1, 0.5]], dtype=np.float32)
    found = rank(images, texts, np.array([0, 1, 2]))
    assert found.t2i.tolist() == [0, 1, 0]
    assert found.i2t.tolist() == [0, 1, 1]
    metrics = recalls(found)
    assert metrics["t2i_r1"] == pytest.approx(200 / 3)
    assert metrics["i2t_r1"] == pytest.approx(100 / 3)
    assert metrics["rsum"] == pytest.approx(100 / 3 + 100 + 100 + 200 / 3 + 100 + 100)
    assert metrics["i2t_median_rank"] == 2.0 and metrics["t2i_mean_rank"] == pytest.approx(4 / 3)


def test_equal_scores_never_count_for_the_model() -> None:
    images = np.ones((20, 4), dtype=np.float32) / 2
    texts = np.ones((100, 4), dtype=np.float32) / 2
    metrics = recalls(rank(images, texts, np.repeat(np.arange(20), 5)))
    assert metrics["rsum"] == 0.0
    assert metrics["t2i_mean_rank"] == 20.0
    assert metrics["i2t_mean_rank"] == 96.0  # behind the 95 captions of other images


def test_equal_embeddings_of_any_kind_give_no_recall() -> None:
    """Rounding must not break a tie for the model, whatever the matrix product does."""
    rng = np.random.default_rng(1)
    one = rng.standard_normal(384).astype(np.float32)
    one /= np.linalg.norm(one)
    metrics = recalls(
        rank(np.tile(one, (53, 1)), np.tile(one, (265, 1)), np.repeat(np.arange(53), 5))
    )
    assert metrics["t2i_r1"] <= 100 / 53 and metrics["i2t_r1"] <= 100 / 53


def test_the_best_of_an_images_own_captions_counts() -> None:
    images = np.eye(2, dtype=np.float32)
    texts = np.array([[0.1, 0.0], [0.9, 0.0], [0.5, 0.6]], dtype=np.float32)
    assert rank(images, texts, np.array([0, 0, 1])).i2t.tolist() == [0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_no_numbers_are_refused(bad: float) -> None:
    """Every comparison with NaN is false, which would rank it first."""
    images = np.eye(2, dtype=np.float32)
    texts = np.array([[bad, 0.0], [0.0, 1.0]], dtype=np.float32)
    with pytest.raises(NotFiniteError):
        rank(images, texts, np.array([0, 1]))


def test_an_image_without_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="every image"):
        rank(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), np.array([0, 0]))
