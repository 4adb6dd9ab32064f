"""Memory and arithmetic of one training step, computed from the recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from data.errors import UserError
from vse.model.backbones.probe import FAILURES, count_tokens
from vse.model.build import Vocabulary, assemble, count_weights
from vse.model.d2s import D2SModel
from vse.recipes import ImageTowerConfig, Recipe, TextTowerConfig
from vse.training.forecast.meta_device import (
    META,
    count_flops,
    count_kept_bytes,
    embed,
    make_batch,
    make_texts,
)
from vse.training.spec import has_decoder

_SWIN_B = {
    "model_type": "swin",
    "embed_dim": 128,
    "depths": [2, 2, 18, 2],
    "num_heads": [4, 8, 16, 32],
}

# From their config.json on the hub; omitted values are transformers' defaults.
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
FLOAT = 4  # bytes; weights, gradients and AdamW's two moments are in single precision


@dataclass(frozen=True)
class StepForecast:
    """The cost of a step on each device.

    weights: numbers of weights per part, as in config.json. memory: bytes per purpose; their sum is
    the estimated peak, without kernel buffers, CUDA itself and fragmentation. flops: for the global
    batch, forward and backward. tokens: bytes of the backbones' output for an image, and for a
    token of a text.
    """

    weights: dict[str, int]
    memory: dict[str, int]
    flops: int
    tokens: dict[str, int]

    @property
    def peak(self) -> int:
        return sum(self.memory.values())


def forecast_step(
    recipe: Recipe,
    *,
    stage: str,
    lengths: Sequence[int],
    dense: Sequence[int] = (),
    vocabulary: Vocabulary,
    processes: int = 1,
) -> StepForecast:
    """Simulate a step of the stage on the meta device.

    Args:
        lengths: token counts of a typical global batch: `texts_per_step` per image.
        dense: those of the dense texts that the joint stage or an online teacher reads besides,
            one per image.
        vocabulary: of the tokenizer, if the text tower is built from scratch.
        processes: number of devices that share the batch.

    Raises:
        UserError: the backbones' architecture is not available, or does not fit the recipe.
    """
    model = build_on_meta(recipe, stage=stage, vocabulary=vocabulary)
    px, texts = recipe.image.px, recipe.data.texts_per_step
    pairs = len(lengths) // texts // processes
    if recipe.optim.chunk is not None:
        pairs = min(pairs, recipe.optim.chunk)
    joint = dense if stage == "joint" else ()
    # Use the device with the longest texts.
    longest, told = sorted(lengths)[-pairs * texts :], sorted(joint)[-pairs:]
    own = make_batch(model, px=px, lengths=longest, dense=told, texts=texts)
    kept = count_kept_bytes(model, own, half=recipe.optim.precision != "fp32")
    flops = count_step_flops(model, recipe, lengths, joint)
    if _has_online_teacher(recipe, stage):
        taught = make_texts(dense)
        flops += count_flops(lambda: model.text(taught))
    return StepForecast(
        weights=count_weights(model),
        memory=add_up_memory(model, recipe, stage=stage, kept=kept, processes=processes),
        flops=flops,
        tokens={
            "image": FLOAT * count_tokens(model.image.backbone, px) * model.image.backbone.width,
            "text": FLOAT * model.text.backbone.width,
        },
    )


def build_on_meta(recipe: Recipe, *, stage: str, vocabulary: Vocabulary) -> D2SModel:
    """The model of a stage on the meta device, in training mode."""
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
        # Some models read values while they are built.
        model = build().to(META)
    return model.train()


def _without_weights(settings: T) -> T:
    if settings.name in ARCHITECTURES:
        return dataclasses.replace(settings, name=None, config=ARCHITECTURES[settings.name])
    return dataclasses.replace(settings, pretrained=False)


def add_up_memory(
    model: D2SModel, recipe: Recipe, *, stage: str, kept: int, processes: int
) -> dict[str, int]:
    """Bytes on one device at the end of the forward pass, which is the peak.

    Gradients of the previous step still exist then, and AdamW's state after the first step.

    Args:
        kept: bytes kept by autograd.
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
    if _has_online_teacher(recipe, stage):
        memory["teacher"] = sum(p.numel() for p in model.text.parameters()) * FLOAT
    if processes > 1:
        memory["gradient buckets"] = trained
    return memory


def _has_online_teacher(recipe: Recipe, stage: str) -> bool:
    return stage == "2" and recipe.teacher.mode != "cached"


def count_step_flops(
    model: D2SModel, recipe: Recipe, lengths: Sequence[int], dense: Sequence[int] = ()
) -> int:
    """FLOP of a step: a backward pass costs two forward passes; frozen backbones have none."""
    px, texts = recipe.image.px, recipe.data.texts_per_step
    batch = make_batch(model, px=px, lengths=lengths, dense=dense, texts=texts)
    read = [part for part in (batch.text, batch.dense) if part is not None]
    image = count_flops(lambda: model.image.backbone(model.image.normalise(batch.pixels)))
    text = count_flops(lambda: [model.text.backbone(part.ids, part.mask) for part in read])
    heads = count_flops(lambda: embed(model, batch)) - image - text
    again = recipe.optim.chunk is not None

    def passes(settings: ImageTowerConfig | TextTowerConfig) -> int:
        if settings.freeze == "all":
            # Cached tokens were computed before the first step.
            return 0 if recipe.data.cache_tokens else 1 + again
        return 3 + (again or settings.checkpointing)

    return image * passes(recipe.image) + text * passes(recipe.text) + heads * (3 + again)


def pick_lengths(lengths: Sequence[int], count: int) -> list[int]:
    """`count` representative lengths: the midpoints of equal shares, sorted."""
    ordered = sorted(lengths)
    return [ordered[int((k + 0.5) * len(ordered) / count)] for k in range(count)]


def device_memory() -> tuple[str, int] | None:
    """Name and bytes of the GPU, None without one."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return found.name, found.total_memory
