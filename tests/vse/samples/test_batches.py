"""Batches are pure functions of seed and step; what is drawn obeys its settings."""

import errno
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing

from data.errors import UserError
from vse.model.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from vse.model.tokenizer.tokenizer import build
from vse.model.tokenizer.tokens import TokenStore, tokenize
from vse.model.towers import normalise
from vse.recipes import DataConfig
from vse.samples.augmentation import WHOLE, Crop, augment_batch, draw_crop, draw_token_drop
from vse.samples.batches import Batch, BatchSettings, BatchSources, Texts, TrainBatches
from vse.samples.images import (
    ImageList,
    LenientImages,
    cache_images,
    decode,
    needed_side,
    resize,
)
from vse.samples.sampler import StepSampler

CAPTIONS = [f"a thing called {n}" for n in ("one", "two", "three", "four", "five", "six", "seven")]


def make(
    *, seed: int = 0, rank: int = 0, world: int = 1, per_image: bool = False, **data: float
) -> TrainBatches:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (9, 11, 3), dtype=np.uint8)) for _ in "abcd"]
    tokenizer = build(CAPTIONS, vocab_size=100)
    image_of = np.array([0, 0, 1, 2, 2, 2, 3])
    texts = Texts(tokenize(CAPTIONS, tokenizer.backend, max_tokens=20), image_of)
    return TrainBatches(
        BatchSources(ImageList(pictures, px=8), texts, teacher=torch.arange(8.0).view(4, 2)),
        BatchSettings(
            DataConfig(**data),  # type: ignore[arg-type]
            per_image=per_image,
            token_count=5,
            token_drop=0.5,
        ),
        tokenizer=tokenizer,
        sampler=StepSampler(4 if per_image else 7, batch_size=2, seed=seed, rank=rank, world=world),
        steps=20,
    )


def same(one: Batch, other: Batch) -> bool:
    assert one.drop is not None and other.drop is not None
    return (
        torch.equal(one.pixels, other.pixels)
        and torch.equal(one.text.ids, other.text.ids)
        and torch.equal(one.drop, other.drop)
        and torch.equal(one.image_index, other.image_index)
    )


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first = make()
    forwards = [first[step] for step in range(9)]
    again = make()
    backwards = [again[step] for step in reversed(range(9))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    other = make(seed=1)
    assert not all(same(batch, other[step]) for step, batch in enumerate(forwards))


def test_epochs_draw_anew() -> None:
    batches = make(word_mask=0.8)
    per_epoch = batches.sampler.steps_per_epoch
    drawn: dict[int, set[tuple[int, ...]]] = {}
    for step in range(6 * per_epoch):
        batch = batches[step]
        for item, row in zip(batches.sampler.batch(step), batch.text.ids, strict=True):
            drawn.setdefault(int(item), set()).add(tuple(row.tolist()))
    assert all(len(rows) > 1 for rows in drawn.values())


def test_each_item_comes_once_an_epoch_and_brings_its_own_image_and_teacher() -> None:
    batches = make(word_mask=0.0)
    seen: Counter[int] = Counter()
    for step in range(batches.sampler.steps_per_epoch):
        batch = batches[step]
        items = batches.sampler.batch(step)
        seen.update(items.tolist())
        assert batch.image_index.tolist() == batches.sources.texts.image_of[items].tolist()
        for row, length, item in zip(batch.text.ids, batch.text.lengths, items, strict=True):
            assert row[:length].tolist() == batches.sources.texts.store[item].tolist()
        assert batch.teacher is not None
        assert batch.teacher[:, 0].tolist() == [2.0 * i for i in batch.image_index.tolist()]
    assert max(seen.values()) == 1 and len(seen) == 6  # the seventh fills no batch


def test_per_image_draws_one_of_the_images_own_captions() -> None:
    batches = make(per_image=True, word_mask=0.0)
    spoken: dict[int, set[tuple[int, ...]]] = {}
    for step in range(20):
        batch = batches[step]
        for image, row, length in zip(
            batch.image_index.tolist(), batch.text.ids, batch.text.lengths, strict=True
        ):
            spoken.setdefault(image, set()).add(tuple(row[:length].tolist()))
    own = [
        {
            tuple(batches.sources.texts.store[k].tolist())
            for k in np.flatnonzero(batches.sources.texts.image_of == i)
        }
        for i in range(4)
    ]
    assert all(spoken[image] <= own[image] for image in range(4))
    assert spoken[2] == own[2]


def test_processes_share_the_global_batch() -> None:
    whole = StepSampler(20, batch_size=6, seed=3)
    parts = [StepSampler(20, batch_size=6, seed=3, rank=r, world=3) for r in range(3)]
    for step in range(7):
        together = np.concatenate([part.batch(step) for part in parts])
        np.testing.assert_array_equal(together, whole.batch(step))


def test_buckets_bring_texts_of_like_length_together_and_each_item_once_an_epoch() -> None:
    lengths = np.random.default_rng(1).integers(5, 200, size=203)
    settings = {"batch_size": 8, "lengths": lengths}
    sampler = StepSampler(203, seed=3, bucket=5, **settings)  # type: ignore[arg-type]
    plain = StepSampler(203, seed=3, bucket=None, **settings)  # type: ignore[arg-type]
    steps = sampler.steps_per_epoch
    assert steps == 25
    orders = []
    for epoch in range(2):
        batches = [sampler.batch(step) for step in range(epoch * steps, (epoch + 1) * steps)]
        items = np.concatenate(batches)
        assert len(set(items.tolist())) == 200  # three wait for another epoch
        orders.append(items.tolist())
        padded = sum(lengths[batch].max() * 8 for batch in batches)
        unsorted = sum(lengths[plain.batch(step)].max() * 8 for step in range(steps))
        assert padded < 1.3 * lengths[items].sum() < unsorted
        # Neither short texts first nor the long ones of a batch for the last process.
        means = [lengths[batch].mean() for batch in batches]
        assert abs(np.corrcoef(means, np.arange(steps))[0, 1]) < 0.5
        halves = [lengths[b[:4]].mean() - lengths[b[4:]].mean() for b in batches]
        assert min(halves) < 0 < max(halves)
    assert orders[0] != orders[1]
    # A pure function of seed and step: another sampler, in any order, by shares of two processes.
    again = StepSampler(203, seed=3, bucket=5, **settings)  # type: ignore[arg-type]
    shares = [
        StepSampler(203, seed=3, bucket=5, rank=rank, world=2, **settings)  # type: ignore[arg-type]
        for rank in range(2)
    ]
    for step in (40, 7, 24, 25):
        np.testing.assert_array_equal(again.batch(step), sampler.batch(step))
        together = np.concatenate([share.batch(step) for share in shares])
        np.testing.assert_array_equal(together, sampler.batch(step))


def test_sampler_refuses_what_cannot_be_cut() -> None:
    with pytest.raises(UserError, match="3 training items do not fill one batch of 4"):
        StepSampler(3, batch_size=4, seed=0)
    with pytest.raises(UserError, match="cannot be divided among 3 processes"):
        StepSampler(30, batch_size=4, seed=0, world=3)


def test_crops_keep_the_same_share_of_both_sides_inside_the_image() -> None:
    shares, mirrored = [], 0
    for k in range(500):
        crop = draw_crop(np.random.default_rng(k), crop_min=0.6, flip=0.5)
        left, top, right, bottom = crop.box
        assert min(left, top) >= 0 and max(right, bottom) <= 1 + 1e-9
        assert right - left == pytest.approx(bottom - top)
        shares.append(right - left)
        mirrored += crop.mirror
    assert min(shares) >= 0.6 and min(shares) < 0.63 and max(shares) > 0.97
    assert 200 < mirrored < 300
    assert not draw_crop(np.random.default_rng(0), crop_min=1.0, flip=0.0).mirror


def test_token_drop_spares_some_images_and_drops_at_the_drawn_rate() -> None:
    rows = np.stack(
        [draw_token_drop(np.random.default_rng(k), count=200, rate=0.5) for k in range(400)]
    )
    share = rows.mean(axis=1)
    untouched = (share == 0).mean()
    assert untouched == pytest.approx(0.5, abs=0.08)  # u <= rate
    assert share[share > 0].mean() == pytest.approx(0.5 * 0.75, abs=0.03)  # rate * E[u | u > rate]


def test_reading_pixels() -> None:
    gradient = np.zeros((20, 40, 3), dtype=np.uint8)
    gradient[:, 20:] = 255
    pixels = ImageList([Image.fromarray(gradient)], px=8)
    whole = pixels.read(0, WHOLE)
    assert whole.shape == (8, 8, 3) and whole[:, 0].max() < 20 and whole[:, -1].min() > 235
    mirrored = pixels.read(0, replace(WHOLE, mirror=True))
    np.testing.assert_array_equal(mirrored, whole[:, ::-1])
    right = pixels.read(0, Crop((0.6, 0.0, 1.0, 0.4), False))
    assert right.min() > 235


def test_resized_pixels_are_those_of_pillow() -> None:
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    for width, height, px in ((500, 375, 96), (500, 375, 384), (40, 30, 64), (3, 2, 8)):
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        for _ in range(4):
            crop = draw_crop(draw, crop_min=0.6, flip=0.5)
            left, top, right, bottom = crop.box
            x, y = min(round(left * width), width - 1), min(round(top * height), height - 1)
            box = (x, y, max(x + 1, round(right * width)), max(y + 1, round(bottom * height)))
            expected = image.crop(box).resize((px, px), Image.Resampling.BILINEAR)
            if crop.mirror:
                expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            found = resize(np.asarray(image), crop, px)
            assert found.shape == (px, px, 3) and found.flags["C_CONTIGUOUS"]
            assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def resize_as_opencv(pixels: np.ndarray, px: int) -> np.ndarray:
    """What cv2.resize (linear) makes of bytes, by its definition: weights of 11 bits."""

    def axis(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = ((np.arange(px) + 0.5) * (count / px) - 0.5).clip(0, count - 1)
        low = np.minimum(place.astype(int), max(count - 2, 0))
        share = np.rint((place - low) * 2048).astype(np.int64)
        return low, np.minimum(low + 1, count - 1), share

    (top, below, y), (left, right, x) = map(axis, pixels.shape[:2])
    y, x, wide = y[:, None, None], x[None, :, None], pixels.astype(np.int64)
    rows = wide[:, left] * (2048 - x) + wide[:, right] * x
    return (rows[top] * (2048 - y) + rows[below] * y + (1 << 21)) >> 22


def test_without_antialiasing_pixels_are_those_of_opencv(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for height, width, px in ((300, 400, 96), (375, 500, 384), (30, 40, 64), (2, 3, 8)):
        noise = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        found = resize(noise, WHOLE, px, antialias=False).astype(int)
        difference = np.abs(found - resize_as_opencv(noise, px))
        assert difference.max() <= 1 and difference.mean() < 0.05
    # Each reader of files does so; a JPEG is decoded whole, for half sizes are means.
    path = tmp_path / "a.jpg"
    Image.fromarray(draw.integers(0, 256, (400, 600, 3), dtype=np.uint8)).save(path)
    expected = resize(np.asarray(decode(path)), WHOLE, 16, antialias=False)
    for pixels in (
        ImageList([path], px=16, antialias=False),
        LenientImages([path], px=16, antialias=False),
        cache_images([path], px=16, folder=tmp_path, antialias=False),
    ):
        np.testing.assert_array_equal(pixels.read(0), expected)
    soft = cache_images([path], px=16, folder=tmp_path).read(0)
    assert np.abs(soft.astype(int) - expected).mean() > 10


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    coarse.resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    for crop in (WHOLE, Crop((0.1, 0.2, 0.8, 0.9), True)):
        small = decode(tmp_path / "a.jpg", side=needed_side(crop, 64))
        share = crop.box[2] - crop.box[0]
        assert small.height < 1200 and min(small.size) * share >= 2 * 64
        found = ImageList([tmp_path / "a.jpg"], px=64).read(0, crop)
        expected = resize(np.asarray(decode(tmp_path / "a.jpg")), crop, 64)
        assert np.abs(found.astype(int) - expected.astype(int)).mean() < 1
    # A photo of the usual size is decoded whole for the usual input.
    assert decode(tmp_path / "a.jpg", side=needed_side(WHOLE, 384)).size == (1600, 1200)


def test_a_full_disk_is_said_before_the_cache_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    paths, folder = [tmp_path / "a.png"] * 3, tmp_path / "cache"
    taken: list[int] = []

    def fail(descriptor: int, offset: int, length: int) -> None:
        taken.append(length)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", fail)
        with pytest.raises(UserError, match="the disk is full: .*images-8"):
            cache_images(paths, px=8, folder=folder)
    assert taken[0] >= 3 * 8 * 8 * 3 and list(folder.iterdir()) == []
    cache_images(paths, px=8, folder=folder)
    [made] = folder.iterdir()
    assert made.stat().st_blocks * 512 >= made.stat().st_size


def test_normalise() -> None:
    pixels = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    pixels[..., 1] = 255
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    found = normalise(pixels, mean=mean, std=std)
    assert found.shape == (1, 3, 2, 2)
    assert found[0, :, 0, 0].tolist() == pytest.approx(
        [-0.485 / 0.229, (1 - 0.456) / 0.224, -0.406 / 0.225], rel=1e-5
    )


@pytest.mark.parametrize("bare", [False, True], ids=["special tokens", "none"])
def test_a_step_reads_so_many_sentences_and_another_the_next_time(bare: bool) -> None:
    texts = ["one red thing. two things. three big things.", "a thing. no thing."]
    tokenizer = build(texts, vocab_size=100)
    if bare:
        tokenizer.backend.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (9, 11, 3), dtype=np.uint8)) for _ in texts]

    def batches(sentences: int | None, *, beside: bool = False) -> TrainBatches:
        tokens = Texts(tokenize(texts, tokenizer.backend, max_tokens=40), np.arange(2))
        return TrainBatches(
            BatchSources(ImageList(pictures, px=8), tokens, dense=tokens if beside else None),
            BatchSettings(
                DataConfig(word_mask=0.0),
                per_image=True,
                token_count=5,
                token_drop=0.0,
                sentences=sentences,
            ),
            tokenizer=tokenizer,
            sampler=StepSampler(2, batch_size=2, seed=0, rank=0, world=1),
            steps=40,
        )

    stop = tokenizer.backend.token_to_id(".")
    whole, one = batches(None), batches(1)
    assert sum(int((whole[step].text.ids == stop).sum()) for step in range(40)) == 40 * 5
    drawn = {tuple(row.tolist()) for step in range(40) for row in one[step].text.ids}
    assert all(row.count(stop) == 1 for row in drawn)
    assert len({tuple(t for t in row if t != tokenizer.pad_id) for row in drawn}) == 5
    # Beside a caption it is the dense text of which they are drawn.
    joint = batches(1, beside=True)
    for step in range(9):
        batch = joint[step]
        assert torch.equal(batch.text.ids, whole[step].text.ids) and batch.dense is not None
        assert ((batch.dense.ids == stop).sum(dim=1) == 1).all()


@pytest.mark.parametrize("mask_dense", [False, True])
def test_an_online_teacher_gets_each_images_dense_text(mask_dense: bool) -> None:
    batches, without = make(word_mask=0.6), make(word_mask=0.6)
    dense = batches.sources.texts.store
    texts = Texts(dense, np.arange(len(dense)))
    batches.sources = replace(batches.sources, dense=texts, teacher=None)
    batches.settings = replace(batches.settings, mask_dense=mask_dense)
    changed = 0
    for step in range(9):
        batch = batches[step]
        assert same(batch, without[step]), "the student's draws must not depend on the teacher"
        assert batch.dense is not None
        for image, row, length in zip(
            batch.image_index.tolist(), batch.dense.ids, batch.dense.lengths, strict=True
        ):
            changed += row[:length].tolist() != dense[image].tolist()
    assert (changed > 0) is mask_dense


def test_several_captions_of_an_image_in_a_row() -> None:
    batches = make(per_image=True, word_mask=0.0, texts_per_step=2)
    seen: dict[int, set[tuple[int, ...]]] = {}
    for step in range(20):
        batch = batches[step]
        rows = [
            tuple(r[:n].tolist()) for r, n in zip(batch.text.ids, batch.text.lengths, strict=True)
        ]
        assert len(rows) == 2 * len(batch.image_index) == 4 and len(batch.pixels) == 2
        for image, two in zip(batch.image_index.tolist(), (rows[:2], rows[2:]), strict=True):
            own = {
                tuple(batches.sources.texts.store[k].tolist())
                for k in np.flatnonzero(batches.sources.texts.image_of == image)
            }
            assert set(two) <= own
            assert len(set(two)) == min(2, len(own)), "none twice while others are left"
            seen.setdefault(image, set()).update(two)
    assert len(seen[2]) == 3
    again = make(per_image=True, word_mask=0.0, texts_per_step=2)
    assert all(same(batches[step], again[step]) for step in range(5))


def test_several_drawings_of_one_dense_text_differ() -> None:
    batches = make(per_image=True, word_mask=0.5, texts_per_step=3)
    image = int(batches[0].image_index[0])
    assert image >= 0
    rows = {tuple(row.tolist()) for step in range(6) for row in batches[step].text.ids}
    assert len(rows) > 12  # of 36 rows drawn from 7 captions


def test_one_text_a_step_draws_as_before() -> None:
    plain, one = make(per_image=True), make(per_image=True, texts_per_step=1)
    assert all(same(plain[step], one[step]) for step in range(8))


def test_a_text_without_special_tokens_is_not_deleted_as_a_whole() -> None:
    """As with the tokenizers of language models: no [CLS], no [SEP], no [MASK]."""
    words = np.array([0, 1, 0, 1, 2])
    store = TokenStore(np.arange(4, 9, dtype=np.int32), words, np.array([0, 2, 5]), cut=0)
    generators = [np.random.default_rng(seed) for seed in range(200)]
    rows = augment_batch(store, [0, 1] * 100, generators, share=0.95, mask_id=None, vocab_size=9)
    assert {len(row) for row in rows} == {1, 2, 3}
