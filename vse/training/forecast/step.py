"""Memory and arithmetic of one training step, from the recipe alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from data.errors import UserError
from vse.model.backbones.probe import FAILURES
from vse.model.build import Vocabulary, assemble, count_weights
from vse.model.d2s import D2SModel
from vse.recipes import ImageTowerConfig, Recipe, TextTowerConfig
from vse.training.forecast.meta_device import META, count_flops, count_kept_bytes, make_batch
from vse.training.spec import has_decoder

_SWIN_B = {
    "model_type": "swin",
    "embed_dim": 128,
    "depths": [2, 2, 18, 2],
    "num_heads": [4, 8, 16, 32],
}

# As their config.json on the hub has them; what is left out is transformers' default.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "google/vit-base-patch16-224-in21k": {"model_type": "vit"},
    "google/vit-base-patch16-384": {"model_type": "vit", "image_size": 384},
    "microsoft/swin-base-patch4-window7-224-in22k": _SWIN_B,
    "microsoft/swin-base-patch4-window12-384-in22k": {
        **_SWIN_B,
        "image_size": 384,
        "window_size": 12,
    },
    "bert-base-uncased": {"model_type": "bert"},
}
T = TypeVar("T", ImageTowerConfig, TextTowerConfig)
FLOAT = 4  # bytes; weights, gradients and AdamW's two means are in single precision


@dataclass(frozen=True)
class StepForecast:
    """What a step takes on each device.

    weights: numbers of weights per part, as in config.json. memory: bytes per purpose; their sum
    is the peak as far as it can be told, for kernels' buffers, CUDA itself and the allocator's
    slack come on top. flops: of the global batch, forward and backward.
    """

    weights: dict[str, int]
    memory: dict[str, int]
    flops: int

    @property
    def peak(self) -> int:
        return sum(self.memory.values())


def forecast_step(
    recipe: Recipe,
    *,
    stage: str,
    lengths: Sequence[int],
    vocabulary: Vocabulary,
    processes: int = 1,
) -> StepForecast:
    """Rehearse a step of the stage on the meta device.

    Args:
        lengths: tokens of the texts of a typical global batch, `texts_per_step` for each image,
            in the joint stage one more.
        vocabulary: of the tokenizer, where the text tower is built from scratch.
        processes: devices that share the batch.

    Raises:
        UserError: the backbones' architecture is not available, or does not fit the recipe.
    """
    model = build_on_meta(recipe, stage=stage, vocabulary=vocabulary)
    texts = recipe.data.texts_per_step + (stage == "joint")
    share = len(lengths) // processes
    if recipe.optim.chunk is not None:
        share = min(share, recipe.optim.chunk * texts)
    # The device with the longest texts.
    own = make_batch(model, px=recipe.image.px, lengths=sorted(lengths)[-share:], texts=texts)
    kept = count_kept_bytes(model, own, half=recipe.optim.precision != "fp32")
    return StepForecast(
        weights=count_weights(model),
        memory=add_up_memory(model, recipe, stage=stage, kept=kept, processes=processes),
        flops=count_step_flops(model, recipe, lengths),
    )


def build_on_meta(recipe: Recipe, *, stage: str, vocabulary: Vocabulary) -> D2SModel:
    """The model of a stage without numbers, in training mode."""
    plain = dataclasses.replace(
        recipe, image=_without_weights(recipe.image), text=_without_weights(recipe.text)
    )

    def build() -> D2SModel:
        return assemble(plain, tokenizer=vocabulary, decoder=has_decoder(recipe, stage))

    try:
        with META:
            model = build()
    except UserError:
        raise
    except FAILURES:
        # Some models read numbers while they are built.
        model = build().to(META)
    return model.train()


def _without_weights(settings: T) -> T:
    if settings.name in ARCHITECTURES:
        return dataclasses.replace(settings, name=None, config=ARCHITECTURES[settings.name])
    return dataclasses.replace(settings, pretrained=False)


def add_up_memory(
    model: D2SModel, recipe: Recipe, *, stage: str, kept: int, processes: int
) -> dict[str, int]:
    """Bytes on one device at the end of the forward pass, when most is held.

    Gradients of the step before are still there then, and AdamW's state from the first step on.

    Args:
        kept: what autograd keeps.
    """
    every = sum(p.numel() for p in model.parameters()) * FLOAT
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) * FLOAT
    memory = {
        "weights": every + sum(b.nbytes for b in model.buffers()),
        "gradients": trained,
        "AdamW": 2 * trained,
        "activations": kept,
    }
    if recipe.optim.ema is not None:
        memory["averaged weights"] = every
    if stage == "2" and recipe.teacher.mode != "cached":
        memory["teacher"] = sum(p.numel() for p in model.text.parameters()) * FLOAT
    if processes > 1:
        memory["gradient buckets"] = trained
    return memory


def count_step_flops(model: D2SModel, recipe: Recipe, lengths: Sequence[int]) -> int:
    """FLOP of a step: a backward pass costs two forward passes, a frozen tower has none."""
    px, texts = recipe.image.px, recipe.data.texts_per_step
    batch = make_batch(model, px=px, lengths=lengths, texts=texts)
    image = count_flops(lambda: model.encode_image(model.image.normalise(batch.pixels)))
    text = count_flops(lambda: model.encode_text(batch.text))
    again = recipe.optim.chunk is not None

    def passes(settings: ImageTowerConfig | TextTowerConfig) -> int:
        if settings.freeze == "all":
            return 1 + again
        return 3 + (again or settings.checkpointing)

    return image * passes(recipe.image) + text * passes(recipe.text)


def pick_lengths(lengths: Sequence[int], count: int) -> list[int]:
    """`count` lengths that stand for all: the middles of as many equal shares of them, sorted."""
    ordered = sorted(lengths)
    return [ordered[int((k + 0.5) * len(ordered) / count)] for k in range(count)]


def device_memory() -> tuple[str, int] | None:
    """Name and bytes of the GPU, None without one."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return found.name, found.total_memory
