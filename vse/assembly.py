"""From settings to a model, and from a model to the plain description that rebuilds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from data.errors import UserError
from vse.backbones import build_backbone, describe_backbone, make_backbone
from vse.config import DecoderConfig, ImageTowerConfig, Recipe, TextTowerConfig
from vse.decoder import CrossAttentionDecoder, Decoder, MaskTokenDecoder
from vse.model import D2SModel
from vse.tokenizer import TextTokenizer
from vse.towers import ImageTower, TextTower


def assemble(
    recipe: Recipe,
    *,
    tokenizer: TextTokenizer,
    decoder: bool,
    before: Mapping[str, Any] | None = None,
) -> D2SModel:
    """Build the model of a recipe; pretrained backbones are loaded, the rest is random.

    Args:
        before: config.json of a run whose weights will be put in. Where it had the same pretrained
            backbones, they are built from its description: needs no network.
    """
    image = _backbone("image", recipe.image, before)
    changes: dict[str, Any] = {}
    if recipe.text.config is not None:
        changes = {"vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_id}
    text = _backbone("text", recipe.text, before, **changes)
    positions = getattr(text.config, "max_position_embeddings", recipe.text.max_tokens)
    if recipe.text.max_tokens > positions:
        raise UserError(
            f"text.max_tokens is {recipe.text.max_tokens}, but the text tower has only {positions} "
            "positions: lower it with --set"
        )
    return D2SModel(
        ImageTower(image, width=recipe.width),
        TextTower(
            text,
            width=recipe.width,
            dropout=recipe.text.dropout,
            head_on_padding=recipe.text.head_on_padding,
        ),
        make_decoder(recipe.width, recipe.decoder) if decoder else None,
        residual=recipe.decoder.residual,
        unit_at_test=recipe.decoder.unit_at_test,
    )


def _backbone(
    part: str,
    settings: ImageTowerConfig | TextTowerConfig,
    before: Mapping[str, Any] | None,
    **changes: Any,
) -> nn.Module:
    name = settings.name
    if name is not None and before is not None and before["recipe"][part]["name"] == name:
        return build_backbone(before["model"][part]["backbone"])
    return make_backbone(name=name, config=settings.config, **changes)


def make_decoder(width: int, config: DecoderConfig) -> Decoder:
    """A fresh decoder. How r is joined to t is the model's matter, not its."""
    if config.kind == "cross_attention":
        return CrossAttentionDecoder(
            width,
            tokens=config.tokens,
            heads=config.cross_heads,
            attend_padding=config.attend_padding,
            pooling=config.pooling,
        )
    return MaskTokenDecoder(
        width,
        tokens=config.tokens,
        depth=config.depth,
        heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        placement=config.placement,
        attend_padding=config.attend_padding,
        pooling=config.pooling,
    )


def describe(model: D2SModel, recipe: Recipe) -> dict[str, Any]:
    """What `rebuild` needs besides the weights; plain JSON."""
    return {
        "image": {"backbone": describe_backbone(model.image.backbone), "px": recipe.image.px},
        "text": {
            "backbone": describe_backbone(model.text.backbone),
            "dropout": recipe.text.dropout,
            "head_on_padding": recipe.text.head_on_padding,
            "max_tokens": recipe.text.max_tokens,
        },
        "width": recipe.width,
        "decoder": dataclasses.asdict(recipe.decoder) if model.decoder is not None else None,
    }


def rebuild(description: dict[str, Any]) -> D2SModel:
    """The architecture that `describe` described, with random weights; needs no network.

    Settings that an older description lacks have the values that change nothing.
    """
    width, text = description["width"], description["text"]
    decoder = description["decoder"]
    settings = DecoderConfig(**decoder) if decoder is not None else None
    return D2SModel(
        ImageTower(build_backbone(description["image"]["backbone"]), width=width),
        TextTower(
            build_backbone(text["backbone"]),
            width=width,
            dropout=text["dropout"],
            head_on_padding=text.get("head_on_padding", False),
        ),
        make_decoder(width, settings) if settings is not None else None,
        residual=settings.residual if settings is not None else True,
        unit_at_test=settings.unit_at_test if settings is not None else False,
    )
