"""Building a model from settings, and describing it so that it can be rebuilt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from data.errors import UserError
from vse.model.backbones import (
    Backbone,
    ImageBackbone,
    TextBackbone,
    build_backbone,
    describe_backbone,
    make_image_backbone,
    make_text_backbone,
)
from vse.model.backbones.heads import ClipHead
from vse.model.backbones.lora import check_adapters
from vse.model.backbones.probe import (
    check_padding,
    check_repeatable,
    count_tokens,
    idle_weights,
)
from vse.model.batch_norm import share_statistics
from vse.model.d2s import D2SModel
from vse.model.decoder import CrossAttentionDecoder, Decoder, MaskTokenDecoder
from vse.model.logits import make_logits
from vse.model.towers import ImageTower, TextTower
from vse.recipes import DecoderConfig, ImageTowerConfig, Recipe, TextTowerConfig


class Vocabulary(Protocol):
    """What the text tower needs to know about the tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_id(self) -> int: ...


def assemble(
    recipe: Recipe,
    *,
    tokenizer: Vocabulary,
    decoder: bool,
    before: Mapping[str, Any] | None = None,
) -> D2SModel:
    """Build the model of a recipe; pretrained backbones are loaded, the rest is random.

    Args:
        before: config.json of a run whose weights will be loaded. If it had the same pretrained
            backbones, they are built from its description, without network access.
    """
    image = _image_backbone(recipe.image, before)
    text = _text_backbone(recipe.text, before, tokenizer)
    positions = text.positions
    if positions is not None and recipe.text.max_tokens > positions:
        raise UserError(
            f"text.max_tokens is {recipe.text.max_tokens}, but the text tower has only {positions} "
            "positions: lower it with --set"
        )
    made = _join(
        image,
        text,
        recipe.decoder if decoder else None,
        width=recipe.width,
        dropout=recipe.text.dropout,
        head_on_padding=recipe.text.head_on_padding,
    )
    share_statistics(made)
    made.logits = make_logits(recipe.loss, batch_size=recipe.optim.batch_size)
    if recipe.heads == "clip" and before is None:
        if len({recipe.image.name, recipe.text.name} - {None}) > 1:
            raise UserError(
                f"heads is clip, but image.name is {recipe.image.name} and text.name is "
                f"{recipe.text.name}: use both towers of one CLIP, or omit heads"
            )
        _take_heads(made)
    return made


@torch.no_grad()
def _take_heads(model: D2SModel) -> None:
    """Start from the projections, scale and bias of the backbones' CLIP model.

    UserError: they are not from a CLIP model, or its width differs.
    """
    logits = model.logits
    towers: dict[str, ImageTower | TextTower] = {"image": model.image, "text": model.text}
    for part, tower in towers.items():
        head: ClipHead | None = tower.backbone.clip_head
        if head is None:
            raise UserError(
                f"heads is clip, but the {part} tower is not from an open_clip model: use one "
                "(open_clip:ARCH/WEIGHTS), or omit heads"
            )
        if head.weight is not None:
            if len(head.weight) != len(tower.fc.weight):
                raise UserError(
                    f"width is {len(tower.fc.weight)}, but the {part} tower's CLIP projects to "
                    f"{len(head.weight)}: set width={len(head.weight)}"
                )
            tower.fc.weight.copy_(head.weight)
            tower.fc.bias.copy_(torch.zeros(()) if head.bias is None else head.bias)
            if isinstance(tower, TextTower):
                # What is added to the projection starts at zero.
                last = tower.mlp[-1]
                assert isinstance(last, nn.Linear)
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        if logits is not None:
            logits.log_scale.copy_(head.log_scale)
            if logits.bias is not None and head.shift is not None:
                logits.bias.copy_(head.shift)


def _join(
    image: Backbone,
    text: Backbone,
    decoder: DecoderConfig | None,
    *,
    width: int,
    dropout: float,
    head_on_padding: bool,
) -> D2SModel:
    assert isinstance(image, ImageBackbone) and isinstance(text, TextBackbone)
    # In this order: the image side's weights have always been drawn first.
    towers = (
        ImageTower(image, width=width),
        TextTower(text, width=width, dropout=dropout, head_on_padding=head_on_padding),
    )
    if decoder is None:
        return D2SModel(*towers)
    return D2SModel(
        *towers,
        make_decoder(width, decoder),
        residual=decoder.residual,
        unit_at_test=decoder.unit_at_test,
    )


def _image_backbone(settings: ImageTowerConfig, before: Mapping[str, Any] | None) -> ImageBackbone:
    made = _as_before("image", settings, before, px=settings.px) or make_image_backbone(settings)
    assert isinstance(made, ImageBackbone)
    made.mean, made.std = settings.mean or made.mean, settings.std or made.std
    count_tokens(made, settings.px)  # a size that does not fit is an error of its own
    if before is None:
        check_repeatable(made, settings.px)
    _resolve(made, settings, px=settings.px, new=before is None)
    return made


def _text_backbone(
    settings: TextTowerConfig, before: Mapping[str, Any] | None, tokenizer: Vocabulary
) -> TextBackbone:
    made = _as_before("text", settings, before) or make_text_backbone(
        settings, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id
    )
    assert isinstance(made, TextBackbone)
    if settings.positions not in (None, made.positions):
        made.stretch_positions(settings.positions)
    if before is None:
        check_padding(made, pad_id=tokenizer.pad_id)
    _resolve(made, settings, new=before is None)
    return made


def _as_before(
    part: str,
    settings: ImageTowerConfig | TextTowerConfig,
    before: Mapping[str, Any] | None,
    **size: int,
) -> Backbone | None:
    name = settings.name
    if name is None or before is None or before["recipe"][part]["name"] != name:
        return None
    return build_backbone(before["model"][part]["backbone"], **size)


def _resolve(
    backbone: Backbone, settings: ImageTowerConfig | TextTowerConfig, *, new: bool, px: int = 0
) -> None:
    """Resolve freezing, adapters and checkpointing of a backbone.

    Raises:
        UserError: it has adapters of another rank, or is `new` and has some without an effect.
    """
    if backbone.lora is None and settings.lora is not None:
        backbone.add_lora(settings.lora)
    elif settings.lora != backbone.lora:
        raise UserError(
            f"the run before has adapters of rank {backbone.lora}, which cannot become "
            f"lora={settings.lora}: omit this setting, or train the stage before with it too"
        )
    idle = idle_weights(backbone, px=px)
    # With several processes, DDP would wait for the gradients of unused weights.
    for name in idle:
        backbone.get_parameter(name).requires_grad_(False)
    part = "image" if isinstance(backbone, ImageBackbone) else "text"
    if new:
        # An earlier version trained such models, which can be continued.
        check_adapters(backbone, idle, part=part)
    if settings.freeze != "none":
        backbone.freeze(None if isinstance(settings.freeze, str) else settings.freeze)
    if settings.checkpointing:
        backbone.checkpoint_gradients()


def make_decoder(width: int, config: DecoderConfig) -> Decoder:
    """A new decoder. The model combines r with t."""
    kind = CrossAttentionDecoder if config.kind == "cross_attention" else MaskTokenDecoder
    return kind(width, config)


def count_weights(model: D2SModel) -> dict[str, int]:
    """Numbers of weights, in total and per part."""
    parts: dict[str, nn.Module | None] = {
        "image": model.image,
        "text": model.text,
        "decoder": model.decoder,
    }
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part
    }
    return {"all": sum(counts.values()), **counts}


def describe(model: D2SModel, recipe: Recipe) -> dict[str, Any]:
    """The information that `rebuild` needs besides the weights; plain JSON."""
    return {
        "image": {
            "backbone": describe_backbone(model.image.backbone),
            "px": recipe.image.px,
            "antialias": recipe.image.antialias,
        },
        "text": {
            "backbone": describe_backbone(model.text.backbone),
            "dropout": recipe.text.dropout,
            "head_on_padding": recipe.text.head_on_padding,
            "max_tokens": recipe.text.max_tokens,
            "too_long": recipe.text.too_long,
        },
        "width": recipe.width,
        "decoder": dataclasses.asdict(recipe.decoder) if model.decoder is not None else None,
    }


def rebuild(description: dict[str, Any]) -> D2SModel:
    """Rebuild an architecture from `describe`, with random weights; needs no network.

    Settings missing in older descriptions get values that change nothing.
    """
    image, text, decoder = description["image"], description["text"], description["decoder"]
    return _join(
        build_backbone(image["backbone"], px=image["px"]),
        build_backbone(text["backbone"]),
        DecoderConfig(**decoder) if decoder is not None else None,
        width=description["width"],
        dropout=text["dropout"],
        head_on_padding=text.get("head_on_padding", False),
    )
