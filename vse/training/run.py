"""One training run from its plan: tokenizer, model, batches, teacher, trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch import Tensor, nn

from data.errors import UserError
from data.files.locks import hold_lock, keep_others_out
from data.settings import list_differences
from vse.model.build import assemble, count_weights, describe
from vse.model.d2s import D2SModel
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.choice import settle_tokenizer
from vse.objective.stages import DenseStage, SparseStage
from vse.objective.teacher import OnlineTeacher, cached_images, cached_teacher, freeze_teacher
from vse.runs.checkpoint_names import MODEL, TOKENIZER
from vse.runs.config import has_results, read_config
from vse.runs.folder import Progress, RunFolder, load_tensors
from vse.samples.batches import TrainBatches
from vse.samples.corpus import Sample
from vse.samples.images import stamp
from vse.training.datasets import RunInputs
from vse.training.distributed import leave, start_accelerator
from vse.training.health import explain_memory
from vse.training.log import Trackers
from vse.training.spec import Plan, make_config
from vse.training.trainer import Report, Trainer
from vse.training.validation import make_validation


def train(plan: Plan, *, report: Report, trackers: Sequence[str] = ()) -> Progress:
    """Carry a plan out, or continue where an earlier attempt stopped.

    Args:
        report: receives every event of log.jsonl, and {"event": "tick"} after each step.
        trackers: tensorboard, wandb: who else gets the figures.

    Raises:
        UserError: settings, data or a training that went wrong; another run in the folder.
        KeyboardInterrupt: stopped on request; the state is saved.
    """
    accelerator = start_accelerator(
        _precision(plan.recipe.optim.precision, report),
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(logging_dir=str(plan.out / "tensorboard")),
    )
    if not accelerator.is_main_process:
        return _train(plan, accelerator, _ignore)

    def warn(text: str) -> None:
        report({"event": "warning", "text": text})

    with keep_others_out(plan.out, warn=warn):
        listening = Trackers(accelerator, trackers, out=plan.out, config=plan.recipe.to_dict())
        try:
            return _train(plan, accelerator, _tell_both(report, listening))
        finally:
            listening.close()


def _train(plan: Plan, accelerator: Accelerator, report: Report) -> Progress:
    folder = RunFolder(plan.out)
    folder.check(plan.fingerprint)
    done = folder.read_progress()
    if done is not None and done.finished:
        report({"event": "finished before", "step": done.step})
        return done
    set_seed(plan.recipe.optim.seed)
    before = [plan.out if has_results(plan.out) else None, plan.init]
    tokenizer = settle_tokenizer(plan.recipe, plan.corpus, before=before)
    # The weights of an earlier run come in later, so its pretrained backbones are not loaded.
    warm = plan.recipe.teacher.warm_start
    source = plan.out if done is not None else plan.init if warm else None
    model = assemble(
        plan.recipe,
        tokenizer=tokenizer,
        decoder=plan.stage == "2",
        before=None if source is None else read_config(source),
    )
    if plan.init is not None:
        towers = _read_towers(plan.init, model)
        if warm:
            model.load_state_dict({**model.state_dict(), **towers})
    if accelerator.is_main_process:
        config = make_config(plan, model=describe(model, plan.recipe), counts=count_weights(model))
        folder.claim(config)
        folder.tell_left_out(plan.corpus.left_out)
        tokenizers.save(tokenizer, plan.out / TOKENIZER)
    accelerator.wait_for_everyone()
    inputs = RunInputs(plan, tokenizer, report)
    # The model goes to its device here, and the teacher embeds all dense texts there.
    with explain_memory(plan.recipe.optim):
        trainer = _Run(plan, model, inputs, accelerator, report).trainer(folder)
    progress = trainer.run()
    leave(accelerator)
    return progress


@dataclass
class _Run:
    plan: Plan
    model: D2SModel
    inputs: RunInputs
    accelerator: Accelerator
    report: Report

    def trainer(self, folder: RunFolder) -> Trainer:
        plan, recipe = self.plan, self.plan.recipe
        return Trainer(
            stage=self._stage(),
            batches=self._batches(),
            optim=recipe.optim,
            loss=recipe.loss,
            folder=folder,
            accelerator=self.accelerator,
            validate=make_validation(plan, self.inputs),
            report=self.report,
        )

    def _stage(self) -> nn.Module:
        recipe = self.plan.recipe
        loss, mode, chunk = recipe.loss, recipe.teacher.mode, recipe.optim.chunk
        if self.plan.stage != "2":
            return DenseStage(self.model, loss, chunk=chunk)
        teacher = None
        if mode != "cached":
            tower = self._stage_1().text
            teacher = OnlineTeacher(tower, moving=mode == "online-train")
        return SparseStage(self.model, loss, teacher, chunk=chunk)

    def _batches(self) -> TrainBatches:
        plan, inputs = self.plan, self.inputs
        mode = plan.recipe.teacher.mode if plan.stage == "2" else None
        train = plan.corpus.splits["train"]
        return inputs.batches(
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            token_count=self.model.image.token_count(plan.recipe.image.px),
            teacher=self._embed_dense(train) if mode == "cached" else None,
            teacher_image=self._embed_images(train) if plan.stage == "2" else None,
            dense=None if mode in (None, "cached") else inputs.dense(train).store,
            mask_dense=mode == "online-train",
        )

    def _embed_dense(self, train: Sequence[Sample]) -> Tensor:
        dense, folder = self.inputs.dense(train).store, self.inputs.cache
        teacher = self._stage_1().to(self.accelerator.device)
        with hold_lock(folder):
            return cached_teacher(
                teacher, dense, pad_id=self.inputs.tokenizer.pad_id, folder=folder
            )

    def _embed_images(self, train: Sequence[Sample]) -> Tensor | None:
        if self.plan.recipe.loss.distill_image != "image":
            return None
        pixels, folder = self.inputs.pixels(train, "train"), self.inputs.cache
        teacher = self._stage_1().to(self.accelerator.device)
        names = [f"{sample.path.resolve()} {stamp(sample.path)}" for sample in train]
        with hold_lock(folder):
            return cached_images(teacher, pixels, names=names, folder=folder)

    def _stage_1(self) -> D2SModel:
        """Stage 1's model, frozen; read anew, for the student need not have started from it."""
        assert self.plan.init is not None
        teacher = freeze_teacher(self.model)
        teacher.load_state_dict(_read_towers(self.plan.init, teacher))
        return teacher


def _tell_both(first: Report, second: Report) -> Report:
    def tell(event: dict[str, Any]) -> None:
        first(event)
        second(event)

    return tell


def _ignore(event: dict[str, Any]) -> None:
    """The report of every process but the main one."""


def _read_towers(init: Path, model: D2SModel) -> dict[str, Tensor]:
    """Both towers of stage 1, which must be of the shape of the model's."""
    weights = load_tensors(init / MODEL)
    own = model.state_dict()
    shapes = {k: tuple(v.shape) for k, v in own.items() if not k.startswith("decoder.")}
    found = {k: tuple(v.shape) for k, v in weights.items() if not k.startswith("decoder.")}
    changes = list_differences(found, shapes)
    if changes:
        raise UserError(
            f"the towers of {init} are not those of this recipe ({'; '.join(changes[:3])}): "
            "leave --recipe out to take over stage 1's, or name another run with --init"
        )
    return {k: weights[k] for k in shapes}


def _precision(precision: str, report: Report) -> str:
    if precision == "fp16" and not torch.accelerator.is_available():
        report({"event": "warning", "text": "fp16 needs a GPU: training in fp32"})
        return "no"
    return {"fp32": "no"}.get(precision, precision)
