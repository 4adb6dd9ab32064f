"""The batches of a training run: `dataset[step]` is a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vse.model.text_batch import TextBatch, pad_texts
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.model.tokenizer.tokens import TokenStore
from vse.model.transfer import send
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

    pixels: (b, px, px, 3) uint8, or a frozen backbone's tokens (b, N, W). drop: (b, N) bool on the
    CPU, or None. image_index: (b,) int64. teacher: (b, D) embeddings of the dense texts, or None.
    dense: the texts, if the teacher or the joint stage reads them.
    text: k consecutive texts per image (`data.texts_per_step`).
    teacher_image: (b, D), the teacher's embeddings of the images, if they are distilled.
    """

    pixels: Tensor
    drop: Tensor | None
    text: TextBatch
    image_index: Tensor
    teacher: Tensor | None
    dense: TextBatch | None = None
    teacher_image: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        def move(part: Any) -> Any:
            return part.to(device) if isinstance(part, TextBatch) else send(part, device)

        return self._map(move, leave="drop")

    def pin_memory(self) -> Batch:
        return self._map(lambda part: part.pin_memory(), leave="drop")

    def split(self, size: int) -> list[Batch]:
        """Batches of up to `size` pairs, in order."""
        return [self._take(slice(at, at + size)) for at in range(0, len(self.pixels), size)]

    def _take(self, rows: slice) -> Batch:
        def take(part: Any) -> Any:
            return part.take(rows) if isinstance(part, TextBatch) else part[rows]

        texts = len(self.text.lengths) // len(self.pixels)
        own = self.text.take(slice(rows.start * texts, rows.stop * texts))
        return replace(self._map(take, leave="text"), text=own)

    def _map(self, change: Callable[[Any], Any], *, leave: str) -> Batch:
        parts = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        changed = {
            name: change(part) for name, part in parts.items() if part is not None and name != leave
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class Texts:
    """Token ids of texts; `image_of` (M,) is ascending: an image's texts are consecutive.

    others: (M,) bool, True for a text that is another sample of the one before it, None if there
    are none. A text is drawn first, then one of its samples.
    """

    store: TokenStore
    image_of: np.ndarray
    others: np.ndarray | None = None

    @cached_property
    def samples(self) -> np.ndarray:
        """(texts + 1,) offsets of the samples of each text."""
        count = len(self.image_of)
        firsts = np.arange(count) if self.others is None else np.flatnonzero(~self.others)
        return np.append(firsts, count)

    @cached_property
    def first(self) -> np.ndarray:
        """(images + 1,) offsets of the texts of each image."""
        of_text = self.image_of[self.samples[:-1]]
        return np.searchsorted(of_text, np.arange(self.image_of[-1] + 2))

    def draw(
        self, images: np.ndarray, generators: Sequence[np.random.Generator], *, many: int = 1
    ) -> np.ndarray:
        """(many b,): `many` texts of each of `images` (b,), each once before any repeats."""
        first, beyond = self.first[images], self.first[images + 1]
        if many > 1:
            drawn = [
                begin + _draw(g, count=int(end - begin), many=many)
                for g, begin, end in zip(generators, first, beyond, strict=True)
            ]
            texts = np.concatenate(drawn)
        else:
            draws = np.array([g.random() for g in generators])
            texts = first + (draws * (beyond - first)).astype(np.int64)
        begins, counts = self.samples[texts], np.diff(self.samples)[texts]
        readers = [g for g in generators for _ in range(many)]
        # No random numbers are drawn if there is no choice.
        drawn = [int(g.integers(n)) if n > 1 else 0 for g, n in zip(readers, counts, strict=True)]
        return begins + np.array(drawn)

    def draw_one(self, images: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """(b,): one text of each; no random numbers are drawn if each image has only one."""
        single = len(self.image_of) == self.image_of[-1] + 1
        return images if single else self.draw(images, generators)

    def mean_lengths(self) -> np.ndarray:
        """(images,) tokens of an image's texts, on average."""
        return np.bincount(self.image_of, self.store.lengths()) / np.bincount(self.image_of)


@dataclass(frozen=True)
class BatchSources:
    """The inputs of batches.

    dense: the dense texts in addition to the captions, one per image and step; they are read unless
    `teacher` (texts, D) has their embeddings. teacher_image: (images, D), the teacher's embeddings
    of the images.
    """

    pixels: Pixels
    texts: Texts
    dense: Texts | None = None
    teacher: Tensor | None = None
    teacher_image: Tensor | None = None


@dataclass(frozen=True)
class BatchSettings:
    """How a sample is drawn.

    per_image: an item is an image, else a text. token_count: of the image tower. max_tokens: longer
    texts are shortened to random whole sentences that fit; None: no text is longer. sentences:
    maximum number of sentences kept of each dense text, redrawn in each step; None = all.
    mask_dense: words of the dense text are masked like those of the caption.
    """

    data: DataConfig
    per_image: bool
    token_count: int
    token_drop: float
    max_tokens: int | None = None
    sentences: int | None = None
    mask_dense: bool = False


class TrainBatches(Dataset[Batch]):
    """Batches by step. Each sample draws from SeedSequence([seed, epoch, item]) alone."""

    def __init__(
        self,
        sources: BatchSources,
        settings: BatchSettings,
        *,
        tokenizer: TextTokenizer,
        sampler: StepSampler,
        steps: int,
    ) -> None:
        self.sources = sources
        self.settings = settings
        self.tokenizer = tokenizer
        self.sampler = sampler
        self.steps = steps
        self._ends, self._edges = tokenizer.end_ids, tokenizer.edges

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        items = self.sampler.batch(step)
        epoch = self.sampler.epoch(step)
        generators = [
            np.random.default_rng(np.random.SeedSequence([self.sampler.seed, epoch, int(item)]))
            for item in items
        ]
        sources, data = self.sources, self.settings.data
        images, texts = self._pairs(items, generators)
        index = torch.from_numpy(images)
        crops = [draw_crop(g, crop_min=data.crop_min, flip=data.flip) for g in generators]
        pixels = np.stack(
            [sources.pixels.read(int(i), crop) for i, crop in zip(images, crops, strict=True)]
        )
        drop = self._draw_drop(generators)
        text = self._read_texts(texts, generators)
        told = images if sources.dense is None else sources.dense.draw_one(images, generators)
        known = sources.teacher
        return Batch(
            pixels=torch.from_numpy(pixels),
            drop=drop,
            text=text,
            image_index=index,
            teacher=None if known is None else known[torch.from_numpy(told)],
            dense=self._read_dense(told, generators) if known is None else None,
            teacher_image=None if sources.teacher_image is None else sources.teacher_image[index],
        )

    def _read_texts(
        self, texts: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> TextBatch:
        data = self.settings.data
        # One generator per sample, whatever its number of texts.
        readers = [g for g in generators for _ in range(data.texts_per_step)]
        rows = self._augment(self.sources.texts.store, texts, readers, data.word_mask)
        if self.sources.dense is None:
            rows = self._draw_sentences(rows, readers)
        rows = self._shorten(rows, readers)
        # With states, texts are unchanged.
        states = self.sources.texts.store.states_of(texts)
        return pad_texts(rows, pad_id=self.tokenizer.pad_id, states=states)

    def _draw_sentences(
        self, rows: list[np.ndarray], generators: Sequence[np.random.Generator]
    ) -> list[np.ndarray]:
        """The sentences of dense texts that this step reads."""
        if (most := self.settings.sentences) is None:
            return rows
        draw = partial(sample_sentences, most=most, end_ids=self._ends, edges=self._edges)
        return list(map(draw, rows, generators))

    def _shorten(
        self, rows: list[np.ndarray], generators: Sequence[np.random.Generator]
    ) -> list[np.ndarray]:
        """Random sentences of texts that were kept whole but are too long for the tower."""
        if (limit := self.settings.max_tokens) is None:
            return rows
        draw = partial(draw_sentences, limit=limit, end_ids=self._ends, edges=self._edges)
        return list(map(draw, rows, generators))

    def _augment(
        self,
        store: TokenStore,
        indices: np.ndarray,
        generators: Sequence[np.random.Generator],
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
        self, told: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> TextBatch | None:
        """The dense texts `told` (b,)."""
        if self.sources.dense is None:
            return None
        store = self.sources.dense.store
        share = self.settings.data.word_mask if self.settings.mask_dense else 0.0
        rows = self._augment(store, told, generators, share)
        rows = self._shorten(self._draw_sentences(rows, generators), generators)
        states = store.states_of(told)
        return pad_texts(rows, pad_id=self.tokenizer.pad_id, states=states)

    def _pairs(
        self, items: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images (b,) and texts (k b,) of the items."""
        if not self.settings.per_image:
            return self.sources.texts.image_of[items], items
        many = self.settings.data.texts_per_step
        return items, self.sources.texts.draw(items, generators, many=many)

    def _draw_drop(self, generators: Sequence[np.random.Generator]) -> Tensor | None:
        rate, count = self.settings.token_drop, self.settings.token_count
        if rate <= 0:
            return None
        rows = [draw_token_drop(g, count=count, rate=rate) for g in generators]
        return torch.from_numpy(np.stack(rows))


def _draw(generator: np.random.Generator, *, count: int, many: int) -> np.ndarray:
    """`many` of `count` texts, (many,): each once before any repeats."""
    rounds = [generator.permutation(count) for _ in range(-(-many // count))]
    return np.concatenate(rounds)[:many]
