"""Mapping weight names of the released code (transformers 4) to ours.

A name starts with one of the table's templates, where {} is a number; the rest is unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from data.errors import UserError

_VIT = ("img_enc.visual_encoder.encoder.layer.{}.", "image.backbone.layers.{}.")
_SWIN = (
    "img_enc.visual_encoder.encoder.layers.{}.blocks.{}.",
    "image.backbone.encoder.layers.{}.blocks.{}.",
)
_BLOCK = ("prompt_learner.decoder_blocks.{}.", "decoder.blocks.{}.")


# The parts of a layer after the attention, in both towers.
_LAYER = (
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
    ("layernorm_before.", "layernorm_before."),
    ("layernorm_after.", "layernorm_after."),
)


def _below(pair: tuple[str, str], *rest: tuple[str, str]) -> list[tuple[str, str]]:
    return [(pair[0] + theirs, pair[1] + ours) for theirs, ours in rest]


# Longer templates first if one is a prefix of another.
TEMPLATES: tuple[tuple[str, str], ...] = (
    ("txt_enc.bert.", "text.backbone."),
    ("txt_enc.fc.", "text.fc."),
    ("txt_enc.mlp.layers.0.", "text.mlp.0."),
    ("txt_enc.mlp.bns.0.", "text.mlp.1."),
    ("txt_enc.mlp.layers.1.", "text.mlp.3."),
    ("txt_enc.gpool.", "text.pool."),
    ("txt_enc.ln.", "text.norm."),
    ("img_enc.image_encoder.fc.", "image.fc."),
    ("img_enc.image_encoder.gpool.", "image.pool."),
    ("img_enc.visual_encoder.embeddings.", "image.backbone.embeddings."),
    ("img_enc.visual_encoder.layernorm.", "image.backbone.layernorm."),
    *_below(
        _VIT,
        ("attention.attention.query.", "attention.q_proj."),
        ("attention.attention.key.", "attention.k_proj."),
        ("attention.attention.value.", "attention.v_proj."),
        *_LAYER,
    ),
    *_below(
        _SWIN,
        ("attention.self.query.", "attention.q_proj."),
        ("attention.self.key.", "attention.k_proj."),
        ("attention.self.value.", "attention.v_proj."),
        (
            "attention.self.relative_position_bias_table",
            "attention.relative_position_bias.relative_position_bias_table",
        ),
        *_LAYER,
    ),
    (
        "img_enc.visual_encoder.encoder.layers.{}.downsample.",
        "image.backbone.encoder.layers.{}.downsample.",
    ),
    ("prompt_learner.prompt_tokens", "decoder.mask_tokens"),
    *_below(
        _BLOCK,
        ("norm1.", "norm1."),
        ("attn.qkv.", "qkv."),
        ("attn.proj.", "proj."),
        ("norm2.", "norm2."),
        ("mlp.fc1.", "fc1."),
        ("mlp.fc2.", "fc2."),
    ),
    ("prompt_learner.decoder_norm.", "decoder.norm."),
    ("prompt_learner.pooling.", "decoder.pool."),
    ("prompt_learner.cross_attn.", "decoder.attention."),
)

# Weights that the released code never uses: poolers, a second batch norm, zeros next to the mask
# tokens, and values that follow from the settings. The teacher is only used in training.
_UNREAD = re.compile(
    r"\.pooler\.dense\.|^txt_enc\.mlp\.bns\.1\.|^prompt_learner\.mask_token$|^long_txt_enc\."
    r"|\.relative_position_index$|\.embeddings\.position_ids$"
)


def _pattern(template: str) -> re.Pattern[str]:
    end = "" if template.endswith(".") else "$"
    return re.compile("^" + re.escape(template).replace(r"\{\}", r"(\d+)") + end)


_RULES = [(_pattern(theirs), ours) for theirs, ours in TEMPLATES]


def our_key(released: str) -> str | None:
    """Our name for a released weight, or None if the released model never uses it.

    Raises:
        UserError: it is not a name in the released code.
    """
    if _UNREAD.search(released):
        return None
    for pattern, template in _RULES:
        if match := pattern.match(released):
            return template.format(*match.groups()) + released[match.end() :]
    raise UserError(f"{released!r} is not a weight of the released code")


def strip_module(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Strip the prefix `module.` of models wrapped for several GPUs."""
    return {key.removeprefix("module."): value for key, value in weights.items()}


def count_numbered(keys: Iterable[str], template: str) -> int:
    """Count the different numbers at the {} of a template among the names that match it."""
    pattern = _pattern(template)
    found = (pattern.match(key) for key in keys)
    return len({match[1] for match in found if match})
