"""The inputs of a run: images, token ids and batches, computed once and cached next to the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.environment import count_cores
from data.files.locks import hold_lock
from vse.model.d2s import D2SModel
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.model.tokenizer.tokens import TokenStore, deterministic_way, tokenize_cached
from vse.samples.batches import BatchSettings, BatchSources, Texts, TrainBatches
from vse.samples.cached_tokens import cache_image_tokens, cache_text_tokens
from vse.samples.corpus import Sample, split_dense
from vse.samples.images import ImageList, Pixels, cache_images, stamp
from vse.samples.sampler import StepSampler
from vse.training.spec import RunSpec

_TOLD = {
    "cut": "they are truncated",
    "sentence": "they are truncated after the last complete sentence",
    "sample": "each step draws complete sentences that fit",
}


@dataclass(frozen=True)
class RunDatasets:
    """The inputs of a run, for a tokenizer; `report` receives the progress of caches."""

    spec: RunSpec
    tokenizer: TextTokenizer
    report: Callable[[dict[str, Any]], None]
    model: D2SModel | None = None  # whose frozen backbones read everything once

    def batches(
        self, sources: BatchSources, *, rank: int, world: int, token_count: int, mask_dense: bool
    ) -> TrainBatches:
        """The training batches of process `rank` of `world`; see `BatchSettings` for the rest."""
        spec, recipe = self.spec, self.spec.recipe
        texts = sources.texts
        sampler = StepSampler(
            spec.length.items,
            batch_size=recipe.optim.batch_size,
            seed=recipe.optim.seed,
            rank=rank,
            world=world,
            lengths=texts.mean_lengths() if spec.one_per_image else texts.store.lengths(),
            bucket=recipe.data.bucket,
        )
        settings = BatchSettings(
            data=recipe.data,
            per_image=spec.one_per_image,
            token_count=token_count,
            token_drop=recipe.image.token_drop,
            max_tokens=recipe.text.max_tokens,
            sentences=recipe.data.sentences if spec.stage in ("1", "joint") else None,
            mask_dense=mask_dense,
        )
        return TrainBatches(
            sources, settings, tokenizer=self.tokenizer, sampler=sampler, steps=spec.length.steps
        )

    def texts(self, samples: Sequence[Sample]) -> Texts:
        """The texts that the stage trains on."""
        if self.spec.stage != "1":
            return self.sparse(samples)
        if self.spec.recipe.data.split_dense:
            samples = [split_dense(sample) for sample in samples]
        # Whole texts if each step samples sentences of long ones.
        return self.dense(samples, training=True)

    def pixels(self, samples: Sequence[Sample], what: str) -> Pixels:
        """Images from files or from an array on disk, or the backbone's tokens."""
        pixels = self.images(samples, what)
        if self.model is None or self.spec.recipe.image.freeze != "all":
            return pixels

        def said(done: int, total: int) -> None:
            self.report({"event": "cache", "what": what, "step": done, "total": total})

        with hold_lock(self.spec.cache):
            return cache_image_tokens(
                self.model,
                pixels,
                names=self.name_images(samples),
                folder=self.spec.cache,
                threads=count_cores(),
                report=said,
            )

    def name_images(self, samples: Sequence[Sample]) -> list[str]:
        """The identity of the images, and how they are resized."""
        way = "" if self.spec.recipe.image.antialias else " cut"
        return [f"{sample.path.resolve()} {stamp(sample.path)}{way}" for sample in samples]

    def images(self, samples: Sequence[Sample], what: str) -> Pixels:
        """The images themselves."""
        image = self.spec.recipe.image
        paths = [sample.path for sample in samples]
        if not self.spec.recipe.data.cache_images:
            return ImageList(paths, px=image.px, antialias=image.antialias)

        def said(done: int, total: int) -> None:
            self.report({"event": "cache", "what": what, "step": done, "total": total})

        with hold_lock(self.spec.cache):
            return cache_images(
                paths,
                px=image.px,
                folder=self.spec.cache,
                antialias=image.antialias,
                report=said,
            )

    def dense(self, samples: Sequence[Sample], *, training: bool = False) -> Texts:
        """One text per image, or all named texts; `training`: each step may shorten them."""
        too_long = self.spec.recipe.text.too_long
        too_long = too_long if training else deterministic_way(too_long)
        # Images without dense text, which only validation splits have, are never accessed.
        rows = [(i, told) for i, sample in enumerate(samples) for told in sample.said or (("",),)]
        texts = [text for _, told in rows for text in told]
        image_of = np.array([i for i, told in rows for _ in told])
        others = np.array([place > 0 for _, told in rows for place in range(len(told))])
        store = self._with_states(self._tokens(texts, "dense", too_long))
        return Texts(store, image_of, others)

    def sparse(self, samples: Sequence[Sample]) -> Texts:
        """All captions, grouped by image."""
        texts = [caption for sample in samples for caption in sample.captions]
        image_of = np.repeat(np.arange(len(samples)), [len(s.captions) for s in samples])
        too_long = deterministic_way(self.spec.recipe.text.too_long)
        return Texts(self._with_states(self._tokens(texts, "sparse", too_long)), image_of)

    def _with_states(self, store: TokenStore) -> TokenStore:
        if self.model is None or self.spec.recipe.text.freeze != "all":
            return store
        pad_id, folder = self.tokenizer.pad_id, self.spec.cache
        with hold_lock(folder):
            return cache_text_tokens(self.model, store, pad_id=pad_id, folder=folder)

    def warn(self, text: str) -> None:
        """Tell the user."""
        self.report({"event": "warning", "text": text})

    def _tokens(self, texts: list[str], what: str, too_long: str) -> TokenStore:
        limit = self.spec.recipe.text.max_tokens
        with hold_lock(self.spec.cache):
            store = tokenize_cached(
                texts,
                self.tokenizer,
                max_tokens=limit,
                folder=self.spec.cache,
                too_long=too_long,
                end_ids=self.tokenizer.end_ids,
            )
        if store.cut:
            self.warn(
                f"{store.cut} of {len(texts)} {what} texts ({100 * store.cut / len(texts):.1f} %) "
                f"are longer than {limit} tokens: {_TOLD[too_long]}"
            )
        return store
