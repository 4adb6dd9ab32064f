"""Inferring the architecture of a released checkpoint from the names and shapes of its weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from data.errors import UserError
from vse.recipes import DecoderConfig
from vse.released.keys import count_numbered

Shapes = Mapping[str, tuple[int, ...]]

HEAD_WIDTH = 64  # width of an attention head in all usual ViTs and BERTs
_VISUAL = "img_enc.visual_encoder."
_BLOCKS = "prompt_learner.decoder_blocks.{}."


def describe_weights(
    shapes: Shapes, *, px: int, dropout: float = 0.2, residual: bool = True, heads: int = 4
) -> dict[str, Any]:
    """The description from which `vse.model.build.rebuild` builds the released model.

    Args:
        shapes: of every weight, by its released name without `module.`.
        px: side of the input, which cannot be inferred from weights; nor can the following.
        residual: text embedding t + r, else r alone.
        heads: of the decoder's blocks.

    Raises:
        UserError: a weight is missing, or the number of attention heads is unknown.
    """
    image = _swin(shapes) if _is_swin(shapes) else _vit(shapes)
    text = _bert(shapes)
    return {
        "image": {"backbone": image, "px": px, "antialias": False},
        "text": {
            "backbone": text,
            "dropout": dropout,
            "max_tokens": text["max_position_embeddings"],
            "head_on_padding": True,
        },
        "width": _shape(shapes, "img_enc.image_encoder.fc.weight")[0],
        "decoder": _decoder(shapes, residual=residual, heads=heads),
    }


def _is_swin(shapes: Shapes) -> bool:
    return any(key.startswith(f"{_VISUAL}encoder.layers.") for key in shapes)


def _vit(shapes: Shapes) -> dict[str, Any]:
    layer = f"{_VISUAL}encoder.layer.0."
    width, channels, patch, _ = _shape(
        shapes, f"{_VISUAL}embeddings.patch_embeddings.projection.weight"
    )
    positions = _shape(shapes, f"{_VISUAL}embeddings.position_embeddings")[1]
    return {
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": count_numbered(shapes, f"{_VISUAL}encoder.layer.{{}}."),
        "num_attention_heads": _heads(width, "the image tower"),
        "intermediate_size": _shape(shapes, f"{layer}intermediate.dense.weight")[0],
        "image_size": math.isqrt(positions - 1) * patch,
        "patch_size": patch,
        "num_channels": channels,
        "qkv_bias": f"{layer}attention.attention.query.bias" in shapes,
    }


def _swin(shapes: Shapes) -> dict[str, Any]:
    width, channels, patch, _ = _shape(
        shapes, f"{_VISUAL}embeddings.patch_embeddings.projection.weight"
    )
    stages = count_numbered(shapes, f"{_VISUAL}encoder.layers.{{}}.")
    first = [f"{_VISUAL}encoder.layers.{stage}.blocks.0." for stage in range(stages)]
    tables = [
        _shape(shapes, f"{block}attention.self.relative_position_bias_table") for block in first
    ]
    hidden = _shape(shapes, f"{first[0]}intermediate.dense.weight")[0]
    found = {
        "model_type": "swin",
        "embed_dim": width,
        "depths": [
            count_numbered(shapes, f"{_VISUAL}encoder.layers.{stage}.blocks.{{}}.")
            for stage in range(stages)
        ],
        "num_heads": [heads for _, heads in tables],
        # A table has a row for each offset between two positions in a window.
        "window_size": (math.isqrt(tables[0][0]) + 1) // 2,
        "mlp_ratio": hidden / width,
        "patch_size": patch,
        "num_channels": channels,
        "qkv_bias": f"{first[0]}attention.self.query.bias" in shapes,
    }
    positions = shapes.get(f"{_VISUAL}embeddings.position_embeddings")
    if positions is not None:
        side = math.isqrt(positions[1]) * patch
        found |= {"use_absolute_embeddings": True, "image_size": side}
    return found


def _bert(shapes: Shapes) -> dict[str, Any]:
    vocabulary, width = _shape(shapes, "txt_enc.bert.embeddings.word_embeddings.weight")
    layer = "txt_enc.bert.encoder.layer.0."
    return {
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": count_numbered(shapes, "txt_enc.bert.encoder.layer.{}."),
        "num_attention_heads": _heads(width, "the text tower"),
        "intermediate_size": _shape(shapes, f"{layer}intermediate.dense.weight")[0],
        "max_position_embeddings": _shape(
            shapes, "txt_enc.bert.embeddings.position_embeddings.weight"
        )[0],
        "type_vocab_size": _shape(shapes, "txt_enc.bert.embeddings.token_type_embeddings.weight")[
            0
        ],
    }


def _decoder(shapes: Shapes, *, residual: bool, heads: int) -> dict[str, Any] | None:
    if not any(key.startswith("prompt_learner.") for key in shapes):
        return None
    tokens, width = _shape(shapes, "prompt_learner.prompt_tokens")
    settings: dict[str, Any] = {
        "tokens": tokens,
        "heads": heads,
        "placement": "postfix",
        "attend_padding": True,
        "pooling": "gpo" if "prompt_learner.pooling.linear.weight" in shapes else "mean",
        "residual": residual,
        "unit_at_test": True,
    }
    depth = count_numbered(shapes, _BLOCKS)
    if any(key.startswith("prompt_learner.cross_attn.") for key in shapes):
        settings |= {"kind": "cross_attention"}
    else:
        settings |= {"kind": "blocks", "depth": depth}
    if depth:
        hidden = _shape(shapes, f"{_BLOCKS.format(0)}mlp.fc1.weight")[0]
        settings |= {"mlp_ratio": hidden / width}
    return dataclasses.asdict(DecoderConfig(**settings))


def _heads(width: int, where: str) -> int:
    if width % HEAD_WIDTH:
        raise UserError(
            f"the number of attention heads of {where} with width {width} is unknown: the usual "
            f"{HEAD_WIDTH} channels per head do not fit"
        )
    return width // HEAD_WIDTH


def _shape(shapes: Shapes, key: str) -> tuple[int, ...]:
    if key not in shapes:
        raise UserError(f"the weights of the released code lack {key}")
    return tuple(shapes[key])
