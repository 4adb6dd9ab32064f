"""The training loop: Accelerate, log, validation, resume. What a stage means it does not know."""

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
from vse.checkpoint import Progress, RunFolder
from vse.config import LossConfig, OptimConfig
from vse.dataset import Batch, TrainBatches
from vse.interrupt import StopRequest
from vse.optim import clip_gradients, lr_factor, make_optimizer, set_lr
from vse.watch import CollapseWatch, check_finite, explain_collapse

Event = dict[str, Any]
Report = Callable[[Event], None]


@dataclass(frozen=True)
class Validation:
    """How the model fares on the validation split: the rSum that chooses, and everything said."""

    rsum: float
    figures: Event


class Trainer:
    """Trains a stage to its last step, from wherever the folder's state is.

    Every step is a function of the step's number (batch, learning rate, random state), so a resumed
    run goes the way an uninterrupted one would have gone.
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
        validate: Callable[[], Validation | None],
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
        self.stage, self.optimizer = accelerator.prepare(stage, make_optimizer(stage, optim))
        self.plain = accelerator.unwrap_model(self.stage)
        self.trained = [p for p in self.plain.parameters() if p.requires_grad]
        self.watch = CollapseWatch()
        self.progress = self._restore()
        self._saved = time.monotonic()

    def run(self) -> Progress:
        """Train, validate and save until the last step.

        Raises:
            UserError: NaN, collapse, memory: what happened and what to do.
            KeyboardInterrupt: asked to stop; the state is saved.
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
                validates = self._validates(done)
                if done % self.optim.log_every and not validates and not stop.asked:
                    continue
                self._log_window(window, done, lr)
                seconds = before + time.perf_counter() - began
                if validates:
                    self._validate(done, seconds)
                elif stop.asked or self._is_old():
                    self._save(done, seconds)
                if stop.asked and done < self.total:
                    self.report({"event": "stopped", "step": done, "total": self.total})
                    raise KeyboardInterrupt
                window = Window()
        return self.progress

    def _restore(self) -> Progress:
        progress = self.folder.read_progress()
        if progress is None:
            if self.accelerator.is_main_process:
                self.folder.trim_log(-1)
            figures = {"steps_per_epoch": self.per_epoch, "items": self.batches.sampler.items}
            self._tell({"event": "start", "step": 0, "total": self.total, **figures})
            return Progress(0, 0, None, False, 0.0, "", None)
        self.folder.load_state(progress, self.plain, self.optimizer)
        if progress.scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(progress.scaler)
        if self.accelerator.is_main_process:
            self.folder.trim_log(progress.step)
        self._tell({"event": "resume", "step": progress.step, "total": self.total})
        return progress

    def _steps(self) -> Iterator[tuple[int, Batch]]:
        steps = range(self.progress.step, self.total)
        loader: DataLoader[Batch] = DataLoader(
            self.batches,
            batch_size=None,
            sampler=steps,
            num_workers=self.batches.data.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        try:
            yield from zip(steps, loader, strict=True)
        except UserError as error:
            # A loader process sends its error with its traceback; the last line is the message.
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
        try:
            parts = self.stage(batch.to(self.accelerator.device), epoch=step / self.per_epoch)
            self.optimizer.zero_grad()
            self.accelerator.backward(parts["loss"])
        except torch.OutOfMemoryError as error:
            raise UserError(_explain_memory(self.optim.batch_size)) from error
        norm = clip_gradients(self.accelerator, self.trained, config=self.optim)
        self.optimizer.step()
        return parts, norm, lr

    def _validates(self, done: int) -> bool:
        every = self.optim.eval_every or self.per_epoch
        return done % every == 0 or done == self.total

    def _log_window(self, window: Window, done: int, lr: float) -> None:
        means, norm = window.means()
        scaled = self.accelerator.scaler is not None
        check_finite(means, norm, step=done, scaled=scaled)
        collapsed = means.pop("collapsed", 0.0)
        self._tell(
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
        # While the learning rate is being raised, standing still is no collapse yet.
        if done > self.optim.warmup_steps and self.watch.update(
            means["align"], collapsed, steps=window.steps
        ):
            text = explain_collapse(
                step=done, value=means["align"], align=self.loss.align, margin=self.loss.margin
            )
            self._tell({"event": "warning", "step": done, "text": text})
            if self.loss.on_collapse == "stop":
                raise UserError(text)

    def _validate(self, done: int, seconds: float) -> None:
        found = self.validate() if self.accelerator.is_main_process else None
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        # Without a validation split there is nothing to choose by: the newest weights are kept.
        rsum, before = None if found is None else found.rsum, self.progress.best_rsum
        best = rsum is None or before is None or rsum > before
        if found is not None:
            figures = {"event": "evaluation", "step": done, "epoch": done / self.per_epoch}
            self._tell({**figures, "rsum": rsum, "best": best, **found.figures})
        if best:
            self.folder.save_model(self.plain.model)
        self._save(done, seconds, best=(done, rsum) if best else None)

    def _is_old(self) -> bool:
        return time.monotonic() - self._saved >= 60 * self.optim.save_minutes

    def _save(
        self, done: int, seconds: float, best: tuple[int, float | None] | None = None
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        old = self.progress
        best_step, best_rsum = best or (old.best_step, old.best_rsum)
        scaler = self.accelerator.scaler
        self.progress = Progress(
            step=done,
            best_step=best_step,
            best_rsum=best_rsum,
            finished=done == self.total,
            seconds=round(seconds, 3),
            weights=f"step-{done:08d}.safetensors",
            scaler=None if scaler is None else scaler.state_dict(),
        )
        if self.progress.finished:
            self._tell({"event": "finish", "step": done, "seconds": self.progress.seconds})
        self.folder.save_state(self.plain, self.optimizer, self.progress)
        self._saved = time.monotonic()

    def _tell(self, event: Event) -> None:
        if self.accelerator.is_main_process:
            self.folder.log(event)
            self.report(event)


class Window:
    """Sums over the steps between two log lines, kept on the device until they are read."""

    def __init__(self) -> None:
        self.steps = 0
        self.samples = 0
        self._sums: dict[str, Tensor] = {}
        self._began = time.perf_counter()

    def add(self, parts: dict[str, Tensor], norm: Tensor, *, count: int) -> None:
        """Take one step's scalars in."""
        for name, value in {**parts, "grad_norm": norm}.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.steps += 1
        self.samples += count

    def means(self) -> tuple[dict[str, float], float]:
        """Mean of every part, and of the gradient norm. Waits for the device."""
        stacked = torch.stack(list(self._sums.values())) / max(1, self.steps)
        means = dict(zip(self._sums, stacked.tolist(), strict=True))
        return means, means.pop("grad_norm")

    def rate(self) -> float:
        """Samples per second, all processes together."""
        return self.samples / max(1e-9, time.perf_counter() - self._began)


def _explain_memory(batch_size: int) -> str:
    return (
        f"out of device memory at a global batch of {batch_size}: lower --batch-size, use half "
        "precision (--set optim.precision=bf16), a smaller input (--set image.px=...), or more GPUs"
    )
