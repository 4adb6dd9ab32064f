"""Executing a training run: tokenizer, model, batches, teacher, validation, trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch import Tensor, nn

from data.environment import count_cores
from data.errors import UserError
from data.files.locks import hold_lock, keep_others_out
from data.settings.differences import list_differences
from vse.evaluation.retrieval import measure
from vse.model.build import assemble, count_weights, describe
from vse.model.d2s import D2SModel
from vse.model.encoding import embed_images, embed_texts
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.choice import check_tokenizer, choose_tokenizer
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.model.tokenizer.tokens import TokenStore
from vse.objective.stages import DenseStage, JointStage, SparseStage
from vse.objective.teacher import OnlineTeacher, cached_images, cached_teacher, freeze_teacher
from vse.runs.config import (
    MODEL,
    TOKENIZER,
    check_fingerprint,
    has_results,
    list_other_versions,
    note_places,
    read_config,
)
from vse.runs.folder import Progress, RunFolder, load_tensors, read_log
from vse.samples.batches import BatchSources, TrainBatches
from vse.samples.corpus import Sample
from vse.training.broken_images import leave_out_broken
from vse.training.datasets import RunDatasets
from vse.training.distributed import (
    choose_precision,
    end_process_group,
    refuse_different,
    start_accelerator,
)
from vse.training.health import explain_memory
from vse.training.identity import hash_steps
from vse.training.log import Trackers
from vse.training.spec import (
    OPTIMISTIC,
    RunSpec,
    has_decoder,
    make_config,
    name_places,
)
from vse.training.state import restore_model
from vse.training.trainer import Report, Trainer, Validation


def train(spec: RunSpec, *, report: Report, trackers: Sequence[str] = ()) -> Progress:
    """Execute a spec, or continue where an earlier attempt stopped.

    Args:
        report: receives every event of log.jsonl, and {"event": "tick"} after each step.
        trackers: tensorboard, wandb.

    Raises:
        UserError: invalid settings or data, failed training, or another run in the folder.
        KeyboardInterrupt: stopped on request; the state is saved.
    """
    accelerator = start_accelerator(
        choose_precision(spec.recipe.optim, report),
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(logging_dir=str(spec.out / "tensorboard")),
    )
    if accelerator.is_main_process:
        done = _train_and_record(spec, accelerator, report, trackers)
    else:
        done = _train(spec, accelerator, lambda event: None)
    end_process_group(accelerator)
    return done


def _train_and_record(
    spec: RunSpec, accelerator: Accelerator, report: Report, trackers: Sequence[str]
) -> Progress:
    """Train as the main process, the only one that writes to the run's folder."""

    def warn(text: str) -> None:
        report({"event": "warning", "text": text})

    with keep_others_out(spec.out, warn=warn):
        listening = Trackers(accelerator, trackers, out=spec.out, config=spec.recipe.to_dict())

        def tell(event: dict[str, Any]) -> None:
            report(event)
            listening(event)

        try:
            return _train(spec, accelerator, tell)
        finally:
            listening.close()


def _train(spec: RunSpec, accelerator: Accelerator, report: Report) -> Progress:
    folder, precision = RunFolder(spec.out), accelerator.mixed_precision
    spec = leave_out_broken(spec, accelerator, report)
    refuse_different(
        accelerator,
        hash_steps(spec.fingerprint, spec.recipe, length=spec.length, precision=precision),
        "the processes have different settings, images, texts or precisions: give all machines the "
        "same",
    )
    check_fingerprint(spec.out, spec.fingerprint)
    if accelerator.is_main_process:
        note_places(spec.out, name_places(spec.paths))
    done = folder.read_progress()
    if done is not None and done.finished:
        report({"event": "finished before", "step": done.step})
        return done
    set_seed(spec.recipe.optim.seed)
    tokenizer = _choose_tokenizer(spec)
    # The weights of an earlier run are loaded later, so pretrained backbones are not needed.
    warm = spec.recipe.teacher.warm_start
    source = spec.out if done is not None else spec.init if warm else None
    model = assemble(
        spec.recipe,
        tokenizer=tokenizer,
        decoder=has_decoder(spec.recipe, spec.stage),
        before=None if source is None else read_config(source),
    )
    if model.decoder is not None and not model.residual and spec.stage != "joint":
        # t is not used: several processes would wait for the gradients of its last layers.
        model.text.pool.requires_grad_(False)
        model.text.norm.requires_grad_(False)
    if spec.init is not None:
        towers = _read_towers(spec.init, model)
        if warm:
            carried = _read_logits(spec, model, report)
            model.load_state_dict({**model.state_dict(), **towers, **carried})
    if done is not None and spec.recipe.data.cache_tokens:
        # The trainer restores all weights, but only after the tokens are computed.
        restore_model(folder.load_state(done), model)
    if accelerator.is_main_process:
        config = make_config(spec, model=describe(model, spec.recipe), counts=count_weights(model))
        folder.claim(config, left_out=[asdict(image) for image in spec.corpus.left_out])
        tokenizers.save(tokenizer, spec.out / TOKENIZER)
    accelerator.wait_for_everyone()
    cached = model.to(accelerator.device) if spec.recipe.data.cache_tokens else None
    datasets = RunDatasets(spec, tokenizer, report, cached)
    # The model is moved to its device here, and the teacher embeds all dense texts there.
    with explain_memory(spec.recipe.optim):
        trainer = _Run(spec, model, datasets, accelerator, report).trainer(folder)
    if done is not None and accelerator.is_main_process:
        _tell_changes(folder, done.step, precision, report)
    return trainer.run()


def _tell_changes(folder: RunFolder, step: int, precision: str, report: Report) -> None:
    """Warn, also in log.jsonl, if the run was started with other packages or in other precision."""
    changes = list_other_versions(folder.path)
    # The last event is that of this session.
    before = [event["precision"] for event in read_log(folder.path) if "precision" in event][:-1]
    if before and before[-1] != precision:
        changes.append(f"precision: {before[-1]} -> {precision}")
    if changes:
        text = (
            f"the run in {folder.path} was started with other versions ({'; '.join(changes)}): the "
            "result can differ from that of an uninterrupted run, unless you return to those"
        )
        event = {"event": "warning", "step": step, "text": text}
        folder.log(event)
        report(event)


def _choose_tokenizer(spec: RunSpec) -> TextTokenizer:
    own = spec.out if has_results(spec.out) else None
    before = [folder / TOKENIZER for folder in (own, spec.init) if folder is not None]
    found = choose_tokenizer(spec.recipe.text, spec.corpus.training_texts(), before=before)
    check_tokenizer(found, spec.recipe, stage=spec.stage)
    return found


@dataclass
class _Run:
    spec: RunSpec
    model: D2SModel
    datasets: RunDatasets
    accelerator: Accelerator
    report: Report

    @property
    def plain(self) -> RunDatasets:
        """Without cached tokens of the student's backbones, which may differ from the teacher's."""
        return replace(self.datasets, model=None)

    def trainer(self, folder: RunFolder) -> Trainer:
        spec, recipe = self.spec, self.spec.recipe
        return Trainer(
            stage=self._stage(),
            batches=self._batches(),
            optim=recipe.optim,
            loss=recipe.loss,
            folder=folder,
            accelerator=self.accelerator,
            validate=make_validation(spec, self.datasets),
            report=self.report,
        )

    def _stage(self) -> nn.Module:
        recipe = self.spec.recipe
        loss, mode, chunk = recipe.loss, recipe.teacher.mode, recipe.optim.chunk
        if self.spec.stage == "joint":
            return JointStage(self.model, loss, chunk=chunk)
        if self.spec.stage != "2":
            return DenseStage(self.model, loss, chunk=chunk)
        teacher = None
        if mode != "cached":
            tower = self._stage_1().text
            teacher = OnlineTeacher(tower, moving=mode == "online-train")
        return SparseStage(self.model, loss, teacher, chunk=chunk)

    def _batches(self) -> TrainBatches:
        spec, datasets = self.spec, self.datasets
        mode = spec.recipe.teacher.mode if spec.stage == "2" else None
        joint, train = spec.stage == "joint", spec.corpus.splits["train"]
        dense = None
        if joint or mode is not None:
            dense = datasets.dense(train, training=True) if joint else self.plain.dense(train)
        sources = BatchSources(
            pixels=datasets.pixels(train, "train"),
            texts=datasets.texts(train),
            dense=dense,
            teacher=self._embed_dense(dense.store) if dense and mode == "cached" else None,
            teacher_image=self._embed_images(train) if spec.stage == "2" else None,
        )
        return datasets.batches(
            sources,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            token_count=self.model.image.token_count(spec.recipe.image.px),
            mask_dense=joint or mode == "online-train",
        )

    def _embed_dense(self, dense: TokenStore) -> Tensor:
        folder = self.spec.cache
        teacher = self._stage_1().to(self.accelerator.device)
        with hold_lock(folder):
            return cached_teacher(
                teacher, dense, pad_id=self.datasets.tokenizer.pad_id, folder=folder
            )

    def _embed_images(self, train: Sequence[Sample]) -> Tensor | None:
        if self.spec.recipe.loss.distill_image != "image":
            return None
        pixels, folder = self.datasets.images(train, "train"), self.spec.cache
        teacher = self._stage_1().to(self.accelerator.device)
        names = self.datasets.name_images(train)
        with hold_lock(folder):
            return cached_images(teacher, pixels, names=names, folder=folder)

    def _stage_1(self) -> D2SModel:
        """Stage 1's model, frozen; read again, since the student may not have started from it."""
        assert self.spec.init is not None
        teacher = freeze_teacher(self.model)
        teacher.load_state_dict(_read_towers(self.spec.init, teacher))
        return teacher


def _read_towers(init: Path, model: D2SModel) -> dict[str, Tensor]:
    """Load both towers of stage 1, whose shapes must match the model's, and its decoder, if any."""
    weights = load_tensors(init / MODEL)
    parts: tuple[str, ...] = ("image.", "text.")
    if model.decoder is not None and any(key.startswith("decoder.") for key in weights):
        parts = (*parts, "decoder.")
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if k.startswith(parts)}
    found = {k: tuple(v.shape) for k, v in weights.items() if k.startswith(parts)}
    changes = list_differences(found, shapes)
    if changes:
        raise UserError(
            f"the towers of {init} differ from those of this recipe ({'; '.join(changes[:3])}): "
            "omit --recipe to use that of stage 1, or specify another run with --init"
        )
    return {k: weights[k] for k in shapes}


def _read_logits(spec: RunSpec, model: D2SModel, report: Report) -> dict[str, Tensor]:
    """Load the final temperature (SigLIP: scale and bias) of stage 1, if it had this loss."""
    assert spec.init is not None
    before = read_config(spec.init)
    loss = spec.recipe.loss
    same = before is not None and before["recipe"]["loss"]["align"] == loss.align
    if model.logits is None or not same or not loss.carry_scale:
        return {}
    weights = load_tensors(spec.init / MODEL)
    wanted = [f"logits.{name}" for name in model.logits.state_dict()]
    if not weights.keys() >= set(wanted):
        text = (
            f"{spec.init} was written by a version that did not save the scale of its loss: it "
            "starts from its initial value"
        )
        report({"event": "warning", "text": text})
        return {}
    return {name: weights[name] for name in wanted}


def make_validation(
    spec: RunSpec, datasets: RunDatasets
) -> Callable[[D2SModel], Validation | None]:
    """The validation function of this spec; it returns None without validation images."""
    split = spec.recipe.data.select_split
    val = spec.corpus.splits[split]
    if not val:
        name = {"val": "validation"}.get(split, split)
        datasets.warn(f"no {name} split: the last weights are kept instead of the best")
        return lambda model: None
    if split == "test":
        datasets.warn(OPTIMISTIC)
    pixels = datasets.pixels(val, split)
    kinds = {"sparse": datasets.sparse(val)}
    silent = sum(not sample.dense for sample in val)
    if spec.stage == "1" and silent == 0:
        # Stage 1 aligns dense text, so dense text shows its progress.
        kinds = {"dense": datasets.dense(val), **kinds}
    elif spec.stage == "1":
        datasets.warn(
            f"{silent} of {len(val)} {split} images have no dense text: the best weights are "
            "selected by sparse captions"
        )
    chosen, pad_id = next(iter(kinds)), datasets.tokenizer.pad_id

    def validate(model: D2SModel) -> Validation:
        images = embed_images(model, pixels, threads=count_cores())
        found = {
            kind: measure(
                images, embed_texts(model, texts.store, pad_id=pad_id), texts.image_of
            ).metrics
            for kind, texts in kinds.items()
        }
        return Validation(found[chosen]["rsum"], {"chosen_by": chosen, **found})

    return validate
