"""One training run from its plan: tokenizer, model, batches, teacher, trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn

from data.errors import UserError
from data.tokens import TokenStore, tokenize_cached
from vse import tokenizer as tokenizers
from vse.assembly import assemble, describe
from vse.checkpoint import Progress, RunFolder, load_tensors
from vse.checkpoint_names import MODEL, TOKENIZER
from vse.corpus import Sample
from vse.dataset import Texts, TrainBatches
from vse.encoding import embed_images, embed_texts
from vse.evaluation.split import measure
from vse.lock import hold_lock, keep_others_out
from vse.model import D2SModel
from vse.pixels import ImageList, Pixels, cache_images
from vse.plan import OPTIMISTIC, Plan, make_config
from vse.run_state import differences, has_results, read_config
from vse.sampler import StepSampler
from vse.stages import DenseStage, SparseStage
from vse.teacher import OnlineTeacher, cached_teacher, freeze_teacher
from vse.tokenizer import TextTokenizer
from vse.trainer import Report, Trainer, Validation


def train(plan: Plan, *, report: Report) -> Progress:
    """Carry a plan out, or continue where an earlier attempt stopped.

    Args:
        report: receives every event of log.jsonl, and {"event": "tick"} after each step.

    Raises:
        UserError: settings, data or a training that went wrong; another run in the folder.
        KeyboardInterrupt: stopped on request; the state is saved.
    """
    accelerator = _start_accelerator(plan.recipe.optim.precision, report)
    if not accelerator.is_main_process:
        report = _ignore
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(keep_others_out(plan.out))
        return _train(plan, accelerator, report)


def _train(plan: Plan, accelerator: Accelerator, report: Report) -> Progress:
    folder = RunFolder(plan.out)
    folder.check(plan.fingerprint)
    done = folder.read_progress()
    if done is not None and done.finished:
        report({"event": "finished before", "step": done.step})
        return done
    set_seed(plan.recipe.optim.seed)
    tokenizer = _settle_tokenizer(plan)
    # The weights of an earlier run come in later, so its pretrained backbones are not loaded.
    source = plan.init if done is None else plan.out
    model = assemble(
        plan.recipe,
        tokenizer=tokenizer,
        decoder=plan.stage == "2",
        before=None if source is None else read_config(source),
    )
    if plan.init is not None:
        _start_from(model, plan.init)
    if accelerator.is_main_process:
        config = make_config(plan, model=describe(model, plan.recipe), counts=count_weights(model))
        folder.claim(config)
        tokenizers.save(tokenizer, plan.out / TOKENIZER)
    accelerator.wait_for_everyone()
    return _Run(plan, model, tokenizer, accelerator, report).trainer(folder).run()


def count_weights(model: D2SModel) -> dict[str, int]:
    """Numbers of weights, all and per part."""
    parts: dict[str, nn.Module | None] = {
        "image": model.image,
        "text": model.text,
        "decoder": model.decoder,
    }
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part
    }
    return {"all": sum(counts.values()), **counts}


@dataclass
class _Run:
    plan: Plan
    model: D2SModel
    tokenizer: TextTokenizer
    accelerator: Accelerator
    report: Report

    def trainer(self, folder: RunFolder) -> Trainer:
        plan, loss = self.plan, self.plan.recipe.loss
        return Trainer(
            stage=self._stage(),
            batches=self._batches(),
            optim=plan.recipe.optim,
            loss=loss,
            folder=folder,
            accelerator=self.accelerator,
            validate=self._validator(),
            report=self.report,
        )

    def _stage(self) -> nn.Module:
        loss, mode = self.plan.recipe.loss, self.plan.recipe.teacher.mode
        if self.plan.stage != "2":
            return DenseStage(self.model, loss)
        if mode == "cached":
            return SparseStage(self.model, loss)
        tower = freeze_teacher(self.model).text
        return SparseStage(self.model, loss, OnlineTeacher(tower, moving=mode == "online-train"))

    def _batches(self) -> TrainBatches:
        plan, recipe = self.plan, self.plan.recipe
        distilled, mode = plan.stage == "2", recipe.teacher.mode
        train = plan.corpus.splits["train"]
        sampler = StepSampler(
            plan.items,
            batch_size=recipe.optim.batch_size,
            seed=recipe.optim.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        return TrainBatches(
            pixels=self._pixels(train, "train"),
            texts=self._dense(train) if plan.stage == "1" else self._sparse(train),
            tokenizer=self.tokenizer,
            sampler=sampler,
            steps=plan.steps,
            data=recipe.data,
            per_image=plan.one_per_image,
            token_count=self.model.image.token_count(recipe.image.px),
            token_drop=recipe.image.token_drop,
            teacher=self._teacher(train) if distilled and mode == "cached" else None,
            dense=self._dense(train).store if distilled and mode != "cached" else None,
            mask_dense=mode == "online-train",
            sentences=recipe.data.sentences if plan.stage == "1" else None,
        )

    def _teacher(self, train: Sequence[Sample]) -> Tensor:
        dense = self._dense(train).store
        teacher = freeze_teacher(self.model).to(self.accelerator.device)
        with hold_lock(self._cache()):
            return cached_teacher(
                teacher, dense, pad_id=self.tokenizer.pad_id, folder=self._cache()
            )

    def _validator(self) -> Any:
        """The validation function: rSum on the validation split, or where the recipe says so."""
        split = self.plan.recipe.data.select_split
        val = self.plan.corpus.splits[split]
        if not val:
            name = {"val": "validation"}.get(split, split)
            self._warn(f"no {name} split: the last weights are kept, not the best")
            return lambda: None
        if split == "test":
            self._warn(OPTIMISTIC)
        pixels = self._pixels(val, split)
        kinds = {"sparse": self._sparse(val)}
        silent = sum(not sample.dense for sample in val)
        if self.plan.stage == "1" and silent == 0:
            # Stage 1 aligns dense text, so that is what tells how far it is.
            kinds = {"dense": self._dense(val), **kinds}
        elif self.plan.stage == "1":
            self._warn(
                f"{silent} of {len(val)} {split} images have no dense text: "
                "the best weights are chosen by sparse captions"
            )
        chosen = next(iter(kinds))

        def validate() -> Validation:
            images = embed_images(self.model, pixels)
            found = {
                kind: measure(images, self._embed(texts), texts.image_of).metrics
                for kind, texts in kinds.items()
            }
            return Validation(found[chosen]["rsum"], {"chosen_by": chosen, **found})

        return validate

    def _embed(self, texts: Texts) -> np.ndarray:
        return embed_texts(self.model, texts.store, pad_id=self.tokenizer.pad_id)

    def _pixels(self, samples: Sequence[Sample], what: str) -> Pixels:
        px = self.plan.recipe.image.px
        paths = [sample.path for sample in samples]
        if not self.plan.recipe.data.cache_images:
            return ImageList(paths, px=px)

        def said(done: int, total: int) -> None:
            self.report({"event": "cache", "what": what, "step": done, "total": total})

        with hold_lock(self._cache()):
            return cache_images(paths, px=px, folder=self._cache(), report=said)

    def _dense(self, samples: Sequence[Sample]) -> Texts:
        texts = [sample.dense or "" for sample in samples]
        return Texts(self._tokens(texts, "dense"), np.arange(len(texts)))

    def _sparse(self, samples: Sequence[Sample]) -> Texts:
        texts = [caption for sample in samples for caption in sample.captions]
        image_of = np.repeat(np.arange(len(samples)), [len(s.captions) for s in samples])
        return Texts(self._tokens(texts, "sparse"), image_of)

    def _tokens(self, texts: list[str], what: str) -> TokenStore:
        limit = self.plan.recipe.text.max_tokens
        with hold_lock(self._cache()):
            store = tokenize_cached(
                texts, self.tokenizer.backend, max_tokens=limit, folder=self._cache()
            )
        if store.cut:
            self._warn(
                f"{store.cut} of {len(texts)} {what} texts are longer than {limit} tokens "
                f"and are cut there ({100 * store.cut / len(texts):.1f} %)"
            )
        return store

    def _warn(self, text: str) -> None:
        self.report({"event": "warning", "text": text})

    def _cache(self) -> Path:
        """Shared by the runs that lie beside each other: same files, same tokenizer, same array."""
        return self.plan.out.parent / "cache"


def _settle_tokenizer(plan: Plan) -> TextTokenizer:
    """The one of the run to be continued, stage 1's, the pretrained tower's, or a new one."""
    for folder in (plan.out if has_results(plan.out) else None, plan.init):
        if folder is not None and (folder / TOKENIZER / "tokenizer.json").is_file():
            return tokenizers.load(folder / TOKENIZER)
    text = plan.recipe.text
    if text.name is not None:
        return tokenizers.load_pretrained(text.name)
    train = plan.corpus.splits["train"]
    # Stage 2 reads the sparse captions with stage 1's tokenizer, so their words belong in it.
    texts = [caption for sample in train for caption in sample.captions]
    texts += [sample.dense for sample in train if sample.dense]
    return tokenizers.build(texts, vocab_size=text.vocab_size)


def _ignore(event: dict[str, Any]) -> None:
    """The report of every process but the main one."""


def _start_from(model: D2SModel, init: Path) -> None:
    """Both towers from stage 1; the decoder stays fresh."""
    before = RunFolder(init).read_config()
    assert before is not None
    weights = load_tensors(init / MODEL)
    own = model.state_dict()
    shapes = {k: tuple(v.shape) for k, v in own.items() if not k.startswith("decoder.")}
    found = {k: tuple(v.shape) for k, v in weights.items() if not k.startswith("decoder.")}
    changes = differences(found, shapes)
    if changes:
        raise UserError(
            f"the towers of {init} are not those of this recipe ({'; '.join(changes[:3])}): "
            "leave --recipe out to take over stage 1's, or name another run with --init"
        )
    fresh = {k: v for k, v in own.items() if k.startswith("decoder.")}
    model.load_state_dict({**{k: weights[k] for k in shapes}, **fresh})


def _start_accelerator(precision: str, report: Report) -> Accelerator:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Accelerator(mixed_precision=_precision(precision, report))
    # One process may train several runs, each with its own precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=_precision(precision, report))


def _precision(precision: str, report: Report) -> str:
    if precision != "fp32" and not torch.accelerator.is_available():
        report({"event": "warning", "text": f"{precision} needs a GPU: training in fp32"})
        return "no"
    return {"fp32": "no"}.get(precision, precision)
