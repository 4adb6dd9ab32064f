"""Names of the weights: from those of the released code (transformers 4) to ours.

A name begins with one of the table's templates, {} standing for a number, and goes on as it was.
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


# What a layer of both towers has behind its attention.
_LAYER = (
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
    ("layernorm_before.", "layernorm_before."),
    ("layernorm_after.", "layernorm_after."),
)


def _below(pair: tuple[str, str], *rest: tuple[str, str]) -> list[tuple[str, str]]:
    return [(pair[0] + theirs, pair[1] + ours) for theirs, ours in rest]


# The longer template first where one begins like another.
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

# What the released code carries along and never reads: poolers, a second batch norm, zeros beside
# the mask tokens, and whatever follows from the settings. The teacher is read in training alone.
_UNREAD = re.compile(
    r"\.pooler\.dense\.|^txt_enc\.mlp\.bns\.1\.|^prompt_learner\.mask_token$|^long_txt_enc\."
    r"|\.relative_position_index$|\.embeddings\.position_ids$"
)


def _pattern(template: str) -> re.Pattern[str]:
    end = "" if template.endswith(".") else "$"
    return re.compile("^" + re.escape(template).replace(r"\{\}", r"(\d+)") + end)


_RULES = [(_pattern(theirs), ours) for theirs, ours in TEMPLATES]


def our_key(released: str) -> str | None:
    """Our name of a released weight, or None for one that the released model never reads.

    Raises:
        UserError: it is no name of the released code's.
    """
    if _UNREAD.search(released):
        return None
    for pattern, template in _RULES:
        if match := pattern.match(released):
            return template.format(*match.groups()) + released[match.end() :]
    raise UserError(f"{released!r} is not a weight of the released code")


def strip_module(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Without the `module.` that a model wrapped for several GPUs puts before every name."""
    return {key.removeprefix("module."): value for key, value in weights.items()}


def count_numbered(keys: Iterable[str], template: str) -> int:
    """How many numbers stand at the {} of a template among the names that begin with it."""
    pattern = _pattern(template)
    found = (pattern.match(key) for key in keys)
    return len({match[1] for match in found if match})
