"""The training loop: Accelerate, logging, validation, resuming. Independent of the stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.errors import UserError
from data.signals import StopRequest
from vse.evaluation.retrieval import NotFiniteError
from vse.model.batch_norm import pause_statistics
from vse.model.d2s import D2SModel
from vse.recipes import LossConfig, OptimConfig
from vse.runs.folder import Progress, RunFolder
from vse.samples.batches import Batch, TrainBatches
from vse.training.distributed import (
    WholeModel,
    any_process,
    broadcast_number,
    compile_blocks,
    is_sharded,
    name_blocks,
    refuse_average,
    refuse_different,
    whole,
)
from vse.training.health import (
    CollapseWatch,
    check_finite,
    explain_collapse,
    explain_memory,
    explain_nan,
)
from vse.training.log import Window
from vse.training.optim import WeightAverage, clip_gradients, lr_factor, make_optimizer, set_lr
from vse.training.state import collect_state, restore_state

Event = dict[str, Any]
Report = Callable[[Event], None]


@dataclass(frozen=True)
class Validation:
    """The result of a validation: the rSum that selects weights, and everything to log."""

    rsum: float
    figures: Event


class Trainer:
    """Trains a stage to its last step, starting from the saved state, if any.

    Every step only depends on its number (batch, learning rate, random state), so a resumed run is
    the same as an uninterrupted one.
    """

    def __init__(
        self,
        *,
        stage: nn.Module,
        batches: TrainBatches,
        optim: OptimConfig,
        loss: LossConfig,
        folder: RunFolder,
        accelerator: Accelerator,
        validate: Callable[[D2SModel], Validation | None],
        report: Report,
    ) -> None:
        self.optim = optim
        self.loss = loss
        self.batches = batches
        self.folder = folder
        self.accelerator = accelerator
        self.validate = validate
        self.report = report
        self.per_epoch = batches.sampler.steps_per_epoch
        self.total = len(batches)
        refuse_average(accelerator, optim.ema)
        self.whole: WholeModel | None = None
        if is_sharded(accelerator):
            name_blocks(accelerator, stage)
            assert isinstance(stage.model, D2SModel)
            self.whole = WholeModel(accelerator, stage.model)
        compile_blocks(stage)
        self.stage, self.optimizer = accelerator.prepare(stage, make_optimizer(stage, optim))
        self.plain = accelerator.unwrap_model(self.stage)
        self.trained = [p for p in self.plain.parameters() if p.requires_grad]
        self.average: WeightAverage | None = None
        if optim.ema is not None:
            self.average = WeightAverage(self.plain.model, decay=optim.ema)
        self.watch = CollapseWatch()
        self.progress = self._restore()
        self._saved = time.monotonic()

    def run(self) -> Progress:
        """Train, validate and save until the last step, or until the patience is exhausted.

        Raises:
            UserError: NaN, collapse, out of memory.
            KeyboardInterrupt: stopped on request; the state is saved.
        """
        self.stage.train()
        window = Window()
        began, before = time.perf_counter(), self.progress.seconds
        with StopRequest() as stop:
            for step, batch in self._steps():
                parts, norm, lr = self._step(step, batch)
                window.add(parts, norm, count=self.optim.batch_size)
                done = step + 1
                self.report({"event": "tick", "step": done, "total": self.total})
                if not self._pauses(done, stop):
                    continue
                self._log_window(window, done, lr)
                asked, old = any_process(self.accelerator, stop.asked, self._is_old())
                seconds = before + time.perf_counter() - began
                if self._validates(done):
                    self._validate(done, seconds)
                elif asked or old:
                    self._save(done, seconds)
                if self.progress.finished:
                    # A signal during the last evaluation: no other stage must start.
                    [asked] = any_process(self.accelerator, stop.asked)
                if asked:
                    self._stop(done)
                if self.progress.finished:
                    break
                window = Window()
        return self.progress

    def _stop(self, done: int) -> None:
        self._report({"event": "stopped", "step": done, "total": self.total}, log=False)
        # The others end only when the main process has saved, or a launcher would kill it.
        self.accelerator.wait_for_everyone()
        raise KeyboardInterrupt

    def _restore(self) -> Progress:
        progress = self.folder.read_progress()
        how = {"precision": self.accelerator.mixed_precision}
        step = -1 if progress is None else progress.step
        refuse_different(
            self.accelerator,
            step,
            f"the processes see different states of {self.folder.path}: all machines must share "
            "the disk of --out",
        )
        if progress is None:
            if self.accelerator.is_main_process:
                self.folder.trim_log(-1)
            figures = {"steps_per_epoch": self.per_epoch, "items": self.batches.sampler.items}
            self._report({"event": "start", "step": 0, "total": self.total, **figures, **how})
            return Progress(0, 0, None, False, 0.0, "", None)
        restore_state(self.folder.load_state(progress), self.plain, self.optimizer, self.average)
        if progress.scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(progress.scaler)
        self.watch.steps = progress.collapsed
        if self.accelerator.is_main_process:
            self.folder.trim_log(progress.step)
        self._report({"event": "resume", "step": progress.step, "total": self.total, **how})
        return progress

    def _steps(self) -> Iterator[tuple[int, Batch]]:
        steps = range(self.progress.step, self.total)
        loader: DataLoader[Batch] = DataLoader(
            self.batches,
            batch_size=None,
            sampler=steps,
            num_workers=self.batches.settings.data.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        try:
            yield from zip(steps, loader, strict=True)
        except UserError as error:
            # Errors of loader processes contain a traceback; the last line is the message.
            line = str(error).strip().splitlines()[-1]
            raise UserError(line.removeprefix("data.errors.UserError: ")) from error

    def _step(self, step: int, batch: Batch) -> tuple[dict[str, Tensor], Tensor, float]:
        rank = self.accelerator.process_index
        sequence = np.random.SeedSequence([self.optim.seed, step, rank])
        torch.manual_seed(int(sequence.generate_state(1)[0]))
        factor = lr_factor(
            step, config=self.optim, steps_per_epoch=self.per_epoch, total=self.total
        )
        lr = set_lr(self.optimizer, factor)
        if self.plain.model.logits is not None:
            self.plain.model.logits.limit()
        # Accelerate wraps the stage in autocast itself, except with sharded weights.
        with explain_memory(self.optim), self.accelerator.autocast():
            parts = self.stage(batch.to(self.accelerator.device), epoch=step / self.per_epoch)
        with explain_memory(self.optim):
            self.optimizer.zero_grad()
            # What is recomputed in the backward pass has already been counted.
            with pause_statistics(self.plain):
                self.accelerator.backward(parts["loss"])
            norm = clip_gradients(self.accelerator, self.trained, config=self.optim)
            self.optimizer.step()
        if self.average is not None:
            self.average.update(self.plain.model, step=step + 1)
        return parts, whole(norm), lr

    def _pauses(self, done: int, stop: StopRequest) -> bool:
        """Whether to read the loss, and possibly save, after this step."""
        due = done % self.optim.log_every == 0 or self._validates(done)
        # Processes receive a signal, and count minutes, at different steps, so they all check at
        # the same ones.
        alone = self.accelerator.num_processes == 1
        return due or (alone and (stop.asked or self._is_old()))

    def _validates(self, done: int) -> bool:
        every = self.optim.eval_every or self.per_epoch
        return done % every == 0 or done == self.total

    def _log_window(self, window: Window, done: int, lr: float) -> None:
        means, norm = window.means()
        scaler = self.accelerator.scaler
        scale = None if scaler is None else scaler.get_scale()
        check_finite(means, norm, step=done, scale=scale)
        collapsed = means.pop("collapsed", 0.0)
        self._report(
            {
                "event": "step",
                "step": done,
                "epoch": round(done / self.per_epoch, 4),
                **{name: round(value, 6) for name, value in means.items()},
                "lr": lr,
                "grad_norm": round(norm, 4) if math.isfinite(norm) else None,
                "samples_per_s": round(window.rate(), 2),
            }
        )
        # During warmup, a constant loss is not a collapse.
        if done > self.optim.warmup_steps and self.watch.update(
            means["align"], collapsed, steps=window.steps
        ):
            text = explain_collapse(
                step=done, value=means["align"], align=self.loss.align, margin=self.loss.margin
            )
            self._report({"event": "warning", "step": done, "text": text})
            if self.loss.on_collapse == "stop":
                raise UserError(text)

    def _validate(self, done: int, seconds: float) -> None:
        model = self._model_to_keep()
        found = self._measure(model, done) if self.accelerator.is_main_process else None
        told = broadcast_number(self.accelerator, math.nan if found is None else found.rsum)
        # Without a validation split, the latest weights are kept.
        rsum, before = None if math.isnan(told) else told, self.progress.best_rsum
        best = rsum is None or before is None or rsum > before
        stale = 0 if best else self.progress.stale + 1
        if found is not None:
            figures = {"event": "evaluation", "step": done, "epoch": done / self.per_epoch}
            self._report({**figures, "rsum": rsum, "best": best, **found.figures})
        if best and self.accelerator.is_main_process:
            self.folder.save_model(model)
        patient = self.optim.patience is None or stale < self.optim.patience
        if not patient and done < self.total:
            self._report({"event": "stopped early", "step": done, "evaluations": stale})
        self._save(
            done, seconds, best=(done, rsum) if best else None, stale=stale, ends=not patient
        )

    def _model_to_keep(self) -> D2SModel:
        """The model to evaluate and save: averaged, gathered from shards, or as it is."""
        if self.whole is not None:
            return self.whole.gather(self.plain.model)
        model: D2SModel = self.plain.model if self.average is None else self.average.model
        return model

    def _measure(self, model: D2SModel, done: int) -> Validation | None:
        try:
            with explain_memory(self.optim):
                return self.validate(model)
        except NotFiniteError as error:
            raise UserError(explain_nan("the weights", step=done)) from error

    def _is_old(self) -> bool:
        return time.monotonic() - self._saved >= 60 * self.optim.save_minutes

    def _save(
        self,
        done: int,
        seconds: float,
        *,
        best: tuple[int, float | None] | None = None,
        stale: int | None = None,
        ends: bool = False,
    ) -> None:
        old = self.progress
        best_step, best_rsum = best or (old.best_step, old.best_rsum)
        scaler = self.accelerator.scaler
        self.progress = Progress(
            step=done,
            best_step=best_step,
            best_rsum=best_rsum,
            finished=ends or done == self.total,
            seconds=round(seconds, 3),
            weights=f"step-{done:08d}.safetensors",
            scaler=None if scaler is None else scaler.state_dict(),
            stale=old.stale if stale is None else stale,
            collapsed=self.watch.steps,
        )
        if self.progress.finished:
            self._report({"event": "finish", "step": done, "seconds": self.progress.seconds})
        # Shards are gathered by all processes; otherwise the others would only need the memory.
        main = self.accelerator.is_main_process
        if main or self.whole is not None:
            tensors = collect_state(self.plain, self.optimizer, self.average)
            if main:
                self.folder.save_state(tensors, self.progress)
        self._saved = time.monotonic()

    def _report(self, event: Event, *, log: bool = True) -> None:
        if self.accelerator.is_main_process:
            if log:
                self.folder.log(event)
            self.report(event)
