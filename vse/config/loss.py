"""Settings of the losses."""

from __future__ import annotations

from dataclasses import dataclass

from vse.config.checks import one_of, require

DISTILLATIONS = ("cosine", "l1", "l2", "relations-kl", "relations-huber")


@dataclass(frozen=True)
class LossConfig:
    """L = align + distill_weight * distill, each with its own reduction over the batch."""

    align: str = "hinge"  # hinge | infonce | siglip
    align_reduction: str = "sum"  # of the hinge over the batch: sum | mean (sum / B)
    margin: float = 0.2
    sum_epochs: int = 1  # hinge: epochs over all negatives, ramped up, before the hardest alone
    temperature: float = 0.07  # infonce: where the learnable temperature starts
    distill: str = "cosine"  # cosine | l1 | l2 | relations-kl | relations-huber
    distill_reduction: str = "mean"  # mean | sum (mean * B)
    distill_weight: float = 1.0
    relation_temperature: float = 0.1  # relations-kl: of both softmaxes
    on_collapse: str = "stop"  # stop | warn

    def __post_init__(self) -> None:
        one_of("loss.align", self.align, ("hinge", "infonce", "siglip"))
        one_of("loss.align_reduction", self.align_reduction, ("sum", "mean"))
        one_of("loss.distill", self.distill, DISTILLATIONS)
        one_of("loss.distill_reduction", self.distill_reduction, ("mean", "sum"))
        one_of("loss.on_collapse", self.on_collapse, ("stop", "warn"))
        for name in ("temperature", "relation_temperature"):
            require(getattr(self, name) > 0, f"loss.{name} must be positive")
