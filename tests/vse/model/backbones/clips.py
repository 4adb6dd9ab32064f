"""Tiny models of open_clip, told to it as a user tells it of an architecture: by a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
MODELS: dict[str, dict[str, Any]] = {
    "d2s-vit": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "d2s-resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last"},
        "quick_gelu": True,
    },
    "d2s-coca": {
        "embed_dim": 16,
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "layers": 1},
        "custom_text": True,
    },
    "d2s-timm": {
        "embed_dim": 16,
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_pool": "token",
            "timm_proj": None,
            "image_size": 224,
        },
        "text_cfg": TEXT,
        "custom_text": True,
    },
}


def register(folder: Path, **more: dict[str, Any]) -> None:
    """Make `MODELS`, and `more`, known by name."""
    for name, config in {**MODELS, **more}.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def write_weights(name: str, path: Path) -> torch.nn.Module:
    """A random model of that name, its weights in `path`."""
    model: torch.nn.Module = open_clip.create_model(name, force_custom_text=True).eval()
    torch.save(model.state_dict(), path)
    return model
