"""The methods that can be compared, and the variants for tuning."""

from __future__ import annotations

from dataclasses import dataclass

from vse.recipes import OptimConfig


@dataclass(frozen=True)
class Training:
    """One training of a method: stage, share of the steps, and changed settings."""

    stage: str
    share: float = 1.0
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """Trainings in sequence, each starting from the previous one; the last model is measured."""

    name: str
    trainings: tuple[Training, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether the method uses no dense text."""
        return all(training.stage == "sparse" for training in self.trainings)


IMAGES = "data.items=images"


def _two(share: float, *settings: str) -> tuple[Training, ...]:
    """Stage 1 with this share of the steps, then stage 2."""
    return Training("1", share), Training("2", 1 - share, (IMAGES, *settings))


# Stage 2 reads no dense sentences, but cached tokens require whole texts.
FROZEN = ("text.freeze=all", "data.sentences=null")
_TRAININGS: dict[str, tuple[Training, ...]] = {
    "sparse-1": (Training("sparse", 1.0, (IMAGES,)),),
    "sparse-2": (Training("sparse", 1.0, (IMAGES, "data.texts_per_step=2")),),
    "sparse-decoder": (Training("sparse", 1.0, (IMAGES, "decoder.in_sparse=true")),),
    "two-10": _two(0.1),
    "two-25": _two(0.25),
    "two-50": _two(0.5),
    "two-50-scale-anew": _two(0.5, "loss.carry_scale=false"),
    "two-50-distil-0": _two(0.5, "loss.distill_weight=0"),
    "two-50-distil-4": _two(0.5, "loss.distill_weight=4"),
    "two-50-distil-16": _two(0.5, "loss.distill_weight=16"),
    "two-50-depth-0": _two(0.5, "decoder.depth=0"),
    "two-50-depth-4": _two(0.5, "decoder.depth=4"),
    "two-50-frozen-depth-0": _two(0.5, *FROZEN, "decoder.depth=0"),
    "two-50-frozen-depth-2": _two(0.5, *FROZEN, "decoder.depth=2"),
    "two-50-frozen-depth-4": _two(0.5, *FROZEN, "decoder.depth=4"),
    "joint-0": (Training("joint", 1.0, (IMAGES, "loss.distill_weight=0")),),
    "joint": (Training("joint", 1.0, (IMAGES,)),),
    "joint-sentence": (Training("joint", 1.0, (IMAGES, "data.sentences=1")),),
    "joint-2": (Training("joint", 1.0, (IMAGES, "data.texts_per_step=2")),),
    "joint-2-distil-0": (
        Training("joint", 1.0, (IMAGES, "data.texts_per_step=2", "loss.distill_weight=0")),
    ),
    "joint-finish": (
        Training("joint", 0.75, (IMAGES,)),
        Training("2", 0.25, (IMAGES, "loss.distill_weight=0")),
    ),
}
METHODS = {name: Method(name, trainings) for name, trainings in _TRAININGS.items()}
# Each method is tuned over all variants: the recipe unchanged, half its learning rates, more
# regularization, or a schedule that ends after half of the steps, before a small set is overfitted.
VARIANTS = ("as-it-is", "half-rate", "strong", "half-steps")
SHARES = {"half-steps": 0.5}


def list_settings(variant: str, optim: OptimConfig) -> tuple[str, ...]:
    """What a variant changes in a recipe with these settings, as values of --set."""
    if variant == "half-rate":
        rates = ("lr", "backbone_lr")
        return tuple(f"optim.{name}={getattr(optim, name) / 2}" for name in rates)
    return ("text.dropout=0.3", "optim.weight_decay=0.1") if variant == "strong" else ()
