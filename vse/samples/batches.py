"""The batches of a training run: `dataset[step]` is a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vse.model.text_batch import TextBatch, pad_texts
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.model.tokenizer.tokens import TokenStore
from vse.recipes import DataConfig
from vse.samples.augmentation import (
    augment_batch,
    draw_crop,
    draw_sentences,
    draw_token_drop,
    sample_sentences,
)
from vse.samples.images import Pixels
from vse.samples.sampler import StepSampler


@dataclass(frozen=True)
class Batch:
    """One process's share of a step.

    pixels: (b, px, px, 3) uint8. drop: (b, N) bool on the CPU, or None. image_index: (b,) int64.
    teacher: (b, D) embeddings of the dense texts, or None. dense: the texts, if it is to read them.
    text: k texts of each image in a row (`data.texts_per_step`). teacher_image: (b, D), the
    teacher's embeddings of the images, if they are distilled.
    """

    pixels: Tensor
    drop: Tensor | None
    text: TextBatch
    image_index: Tensor
    teacher: Tensor | None
    dense: TextBatch | None = None
    teacher_image: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            pixels=move(self.pixels),
            text=self.text.to(device),
            image_index=move(self.image_index),
            teacher=None if self.teacher is None else move(self.teacher),
            dense=None if self.dense is None else self.dense.to(device),
            teacher_image=None if self.teacher_image is None else move(self.teacher_image),
        )

    def pin_memory(self) -> Batch:
        return replace(
            self,
            pixels=self.pixels.pin_memory(),
            text=self.text.pin_memory(),
            image_index=self.image_index.pin_memory(),
            teacher=None if self.teacher is None else self.teacher.pin_memory(),
            dense=None if self.dense is None else self.dense.pin_memory(),
            teacher_image=None if self.teacher_image is None else self.teacher_image.pin_memory(),
        )

    def split(self, size: int) -> list[Batch]:
        """Batches of up to `size` pairs, in order."""
        return [self._take(slice(at, at + size)) for at in range(0, len(self.pixels), size)]

    def _take(self, rows: slice) -> Batch:
        texts = len(self.text.lengths) // len(self.pixels)
        return Batch(
            pixels=self.pixels[rows],
            drop=None if self.drop is None else self.drop[rows],
            text=self.text.take(slice(rows.start * texts, rows.stop * texts)),
            image_index=self.image_index[rows],
            teacher=None if self.teacher is None else self.teacher[rows],
            dense=None if self.dense is None else self.dense.take(rows),
            teacher_image=None if self.teacher_image is None else self.teacher_image[rows],
        )


@dataclass(frozen=True)
class Texts:
    """Token ids of texts; `image_of` (M,) is ascending: an image's texts lie together."""

    store: TokenStore
    image_of: np.ndarray

    def first_of(self, images: int) -> np.ndarray:
        """(images + 1,) where each image's texts begin."""
        return np.searchsorted(self.image_of, np.arange(images + 1))

    def mean_lengths(self) -> np.ndarray:
        """(images,) tokens of an image's texts, on average."""
        return np.bincount(self.image_of, self.store.lengths()) / np.bincount(self.image_of)


class TrainBatches(Dataset[Batch]):
    """Batches by step. Each sample draws from SeedSequence([seed, epoch, item]) alone."""

    def __init__(
        self,
        *,
        pixels: Pixels,
        texts: Texts,
        tokenizer: TextTokenizer,
        sampler: StepSampler,
        steps: int,
        data: DataConfig,
        per_image: bool,
        token_count: int,
        token_drop: float,
        max_tokens: int | None = None,
        teacher: Tensor | None = None,
        teacher_image: Tensor | None = None,
        dense: TokenStore | None = None,
        mask_dense: bool = False,
        sentences: int | None = None,
    ) -> None:
        """Put the sources together.

        Args:
            max_tokens: of longer texts whole sentences are drawn that fit; None: none is longer.
            teacher: (images, D) embeddings of the dense texts, where they are computed beforehand.
            teacher_image: (images, D) embeddings of the images by the teacher.
            dense: each image's dense text, where the teacher reads it in each step, with words
                masked like the student's if `mask_dense`.
            sentences: keep at most so many of each text's, drawn anew each time; None = all.
        """
        self.pixels = pixels
        self.texts = texts
        self.tokenizer = tokenizer
        self.sampler = sampler
        self.steps = steps
        self.data = data
        self.per_image = per_image
        self.token_count = token_count
        self.token_drop = token_drop
        self.max_tokens = max_tokens
        self.teacher = teacher
        self.teacher_image = teacher_image
        self.dense = dense
        self.mask_dense = mask_dense
        self.sentences = sentences
        self._first = texts.first_of(len(pixels))
        self._ends = tokenizer.end_ids

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        items = self.sampler.batch(step)
        epoch = self.sampler.epoch(step)
        generators = [
            np.random.default_rng(np.random.SeedSequence([self.sampler.seed, epoch, int(item)]))
            for item in items
        ]
        images, texts = self._pairs(items, generators)
        index = torch.from_numpy(images)
        # One generator a sample, whatever its number of texts.
        readers = [g for g in generators for _ in range(self.data.texts_per_step)]
        crops = [draw_crop(g, crop_min=self.data.crop_min, flip=self.data.flip) for g in generators]
        pixels = np.stack(
            [self.pixels.read(int(i), crop) for i, crop in zip(images, crops, strict=True)]
        )
        drop = self._draw_drop(generators)
        rows = self._augment(self.texts.store, texts, readers, share=self.data.word_mask)
        ends = self._ends
        if self.sentences is not None:
            rows = sample_sentences(rows, readers, most=self.sentences, end_ids=ends)
        if self.max_tokens is not None:
            rows = draw_sentences(rows, readers, limit=self.max_tokens, end_ids=ends)
        return Batch(
            pixels=torch.from_numpy(pixels),
            drop=drop,
            text=pad_texts(rows, pad_id=self.tokenizer.pad_id),
            image_index=index,
            teacher=None if self.teacher is None else self.teacher[index],
            dense=self._read_dense(images, generators),
            teacher_image=None if self.teacher_image is None else self.teacher_image[index],
        )

    def _augment(
        self,
        store: TokenStore,
        indices: np.ndarray,
        generators: Sequence[np.random.Generator],
        *,
        share: float,
    ) -> list[np.ndarray]:
        return augment_batch(
            store,
            list(indices),
            generators,
            share=share,
            mask_id=self.tokenizer.mask_id,
            vocab_size=self.tokenizer.vocab_size,
        )

    def _read_dense(
        self, images: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> TextBatch | None:
        if self.dense is None:
            return None
        share = self.data.word_mask if self.mask_dense else 0.0
        rows = self._augment(self.dense, images, generators, share=share)
        return pad_texts(rows, pad_id=self.tokenizer.pad_id)

    def _pairs(
        self, items: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images (b,) and texts (k b,) of the items."""
        if not self.per_image:
            return self.texts.image_of[items], items
        first, beyond = self._first[items], self._first[items + 1]
        many = self.data.texts_per_step
        if many > 1:
            drawn = [
                begin + _draw(g, count=int(end - begin), many=many)
                for g, begin, end in zip(generators, first, beyond, strict=True)
            ]
            return items, np.concatenate(drawn)
        draws = np.array([g.random() for g in generators])
        return items, first + (draws * (beyond - first)).astype(np.int64)

    def _draw_drop(self, generators: Sequence[np.random.Generator]) -> Tensor | None:
        if self.token_drop <= 0:
            return None
        rows = [
            draw_token_drop(g, count=self.token_count, rate=self.token_drop) for g in generators
        ]
        return torch.from_numpy(np.stack(rows))


def _draw(generator: np.random.Generator, *, count: int, many: int) -> np.ndarray:
    """`many` of `count` texts, (many,): each before any comes again."""
    rounds = [generator.permutation(count) for _ in range(-(-many // count))]
    return np.concatenate(rounds)[:many]
