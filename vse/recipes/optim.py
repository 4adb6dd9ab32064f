"""Settings of the optimiser and the schedule."""

from __future__ import annotations

from dataclasses import dataclass

from vse.recipes.checks import one_of, require


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule, and how long."""

    batch_size: int = 128  # global: all processes together
    epochs: int = 30  # an epoch is all items once, see data.items
    steps: int | None = None  # when set, decides instead of epochs
    lr: float = 2e-4  # heads, decoder, temperature
    backbone_lr: float = 2e-5  # both backbones
    layer_decay: float = 1.0  # of backbone_lr, once more for each block further from the head
    weight_decay: float = 1e-4  # of AdamW, on every weight that is trained
    schedule: str = "step"  # step | cosine | constant
    milestones: tuple[int, ...] = (9, 15, 20, 25)  # schedule step: epochs, counted from 0
    gamma: float = 0.3  # schedule step: what each milestone multiplies the rates by
    warmup_steps: int = 0  # over which the rates rise linearly
    clip: float = 2.0  # of the gradient norm
    clip_scaled: bool = False  # as released: fp16 gradients are clipped with the loss scale in them
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    eps: float = 1e-8  # of AdamW
    ema: float | None = None  # decay of averaged weights (0.999): they are evaluated and kept
    chunk: int | None = None  # pairs that a process embeds at a time, to save memory; None = all
    precision: str = "fp32"  # fp32 | bf16 | fp16 (a GPU alone)
    eval_every: int | None = None  # steps; None = every epoch
    patience: int | None = None  # evaluations without a better rSum before training ends early
    log_every: int = 10  # steps; the only moments at which the loss is read from the device
    save_minutes: float = 10.0  # the state is saved when it is older, besides at evaluations
    seed: int = 0  # of weights, order and augmentation

    def __post_init__(self) -> None:
        one_of("optim.schedule", self.schedule, ("step", "cosine", "constant"))
        one_of("optim.precision", self.precision, ("fp32", "bf16", "fp16"))
        require(0 < self.layer_decay <= 1, "optim.layer_decay must lie in (0, 1]")
        require(self.batch_size >= 2, "optim.batch_size must be at least 2: no negatives else")
        for name in ("epochs", "log_every", "save_minutes"):
            require(getattr(self, name) > 0, f"optim.{name} must be positive")
        for name in ("steps", "eval_every", "patience", "chunk"):
            value = getattr(self, name)
            require(value is None or value > 0, f"optim.{name} must be positive")
        require(len(self.betas) == 2, "optim.betas must be two numbers")
        require(all(0 <= beta < 1 for beta in self.betas), "optim.betas must lie in [0, 1)")
        require(self.eps > 0, "optim.eps must be positive")
        require(self.ema is None or 0 < self.ema < 1, "optim.ema must lie between 0 and 1")
