"""Settings of the losses."""

from __future__ import annotations

from dataclasses import dataclass

from vse.recipes.checks import one_of, require

DISTILLATIONS = ("cosine", "l1", "l2", "relations-kl", "relations-huber")


@dataclass(frozen=True)
class LossConfig:
    """L = align + distill_weight * distill, each with its own reduction over the batch.

    With `distill_image`, + distill_image_weight * mean (1 - cos(v, target)): not the paper's.
    """

    align: str = "hinge"  # hinge | infonce | siglip
    align_reduction: str = "sum"  # of the hinge over the batch: sum | mean (sum / B)
    margin: float = 0.2  # of the hinge
    sum_epochs: int = 1  # hinge: epochs over all negatives, ramped up, before the hardest alone
    temperature: float = 0.07  # infonce: where the learnable temperature starts
    distill: str = "cosine"  # cosine | l1 | l2 | relations-kl | relations-huber
    distill_reduction: str = "mean"  # mean | sum (mean * B)
    distill_weight: float = 1.0  # of the distillation beside the alignment
    distill_image: str | None = None  # what v is drawn to: dense (text's) or image (stage 1's v)
    distill_image_weight: float = 1.0  # of that on the image side
    relation_temperature: float = 0.1  # relations-kl: of both softmaxes
    on_collapse: str = "stop"  # stop | warn, when all embeddings are alike and stay so

    def __post_init__(self) -> None:
        one_of("loss.align", self.align, ("hinge", "infonce", "siglip"))
        one_of("loss.align_reduction", self.align_reduction, ("sum", "mean"))
        one_of("loss.distill", self.distill, DISTILLATIONS)
        one_of("loss.distill_reduction", self.distill_reduction, ("mean", "sum"))
        if self.distill_image is not None:
            one_of("loss.distill_image", self.distill_image, ("dense", "image"))
        one_of("loss.on_collapse", self.on_collapse, ("stop", "warn"))
        for name in ("temperature", "relation_temperature"):
            require(getattr(self, name) > 0, f"loss.{name} must be positive")
