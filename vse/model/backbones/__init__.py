"""Building backbones by name, by configuration, and from the description in config.json.

A name is a hub id or folder of transformers, timm:NAME, open_clip:ARCH/WEIGHTS, or llava:NAME for
the vision tower of a LLaVA. A configuration or description is plain JSON: that of transformers
(`model_type`, ...), or with `library` timm or open_clip. timm and open_clip are only imported for
their models.
"""

from __future__ import annotations

from typing import Any

from data.errors import UserError
from vse.model.backbones.base import Backbone, ImageBackbone, TextBackbone
from vse.model.backbones.huggingface import build_huggingface, load_huggingface
from vse.recipes import ImageTowerConfig, TextTowerConfig

__all__ = [
    "Backbone",
    "ImageBackbone",
    "TextBackbone",
    "build_backbone",
    "describe_backbone",
    "make_image_backbone",
    "make_text_backbone",
]


def make_image_backbone(settings: ImageTowerConfig) -> ImageBackbone:
    """The image backbone of a recipe, with its pretrained weights if it has a name.

    Raises:
        UserError: unavailable weights, a model that is refused or is not an image tower.
    """
    name, pretrained, px = settings.name, settings.pretrained, settings.px
    if name is None:
        assert settings.config is not None
        made = build_backbone(settings.config, px=px)
    elif name.startswith("timm:"):
        from vse.model.backbones.timm import load_timm

        made = load_timm(name, pretrained=pretrained, px=px)
    elif name.startswith("open_clip:"):
        from vse.model.backbones.open_clip import load_open_clip

        made = load_open_clip(name, part="image", pretrained=pretrained, px=px, pad_id=0)
    elif name.startswith("llava:"):
        from vse.model.backbones.llava import load_llava

        made = load_llava(name, pretrained=pretrained)
    else:
        made = load_huggingface(name, pretrained=pretrained, part="image")
    if not isinstance(made, ImageBackbone):
        raise UserError(f"{name or settings.config} is a text tower: image needs an image tower")
    return made


def make_text_backbone(settings: TextTowerConfig, *, vocab_size: int, pad_id: int) -> TextBackbone:
    """The text backbone of a recipe, with its pretrained weights if it has a name.

    Args:
        vocab_size: of the tokenizer, for a backbone that is built from scratch.

    Raises:
        UserError: unavailable weights, a model that is refused or is not a text tower.
    """
    name, pretrained = settings.name, settings.pretrained
    if name is None:
        assert settings.config is not None
        made = build_backbone(_of_vocabulary(settings.config, vocab_size, pad_id))
    elif name.startswith("open_clip:"):
        from vse.model.backbones.open_clip import load_open_clip

        made = load_open_clip(name, part="text", pretrained=pretrained, px=0, pad_id=pad_id)
    else:
        made = load_huggingface(name, pretrained=pretrained, part="text")
    if not isinstance(made, TextBackbone):
        raise UserError(f"{name or settings.config} is an image tower: text needs a text tower")
    return made


def build_backbone(description: dict[str, Any], *, px: int = 224) -> Backbone:
    """A backbone with random weights from a configuration or description; needs no network.

    Args:
        px: the input size, for image backbones with a fixed one.

    Raises:
        UserError: the library refuses it.
    """
    plain = {k: v for k, v in description.items() if k not in ("mean", "std", "lora")}
    library = plain.get("library", "transformers")
    made: Backbone
    if library == "timm":
        from vse.model.backbones.timm import build_timm

        made = build_timm(plain, px=px)
    elif library == "open_clip":
        from vse.model.backbones.open_clip import build_open_clip

        made = build_open_clip(plain, px=px)
    elif library == "transformers":
        made = build_huggingface(plain)
    else:
        raise UserError(f"unknown library {library!r}: use transformers, timm or open_clip")
    if isinstance(made, ImageBackbone):
        made.mean = tuple(description.get("mean", made.mean))
        made.std = tuple(description.get("std", made.std))
    if description.get("lora") is not None:
        made.add_lora(description["lora"])
    return made


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """The plain description from which `build_backbone` rebuilds the architecture."""
    found = backbone.describe()
    if isinstance(backbone, ImageBackbone):
        found |= {"mean": list(backbone.mean), "std": list(backbone.std)}
    return found if backbone.lora is None else {**found, "lora": backbone.lora}


def _of_vocabulary(config: dict[str, Any], vocab_size: int, pad_id: int) -> dict[str, Any]:
    if config.get("library") == "open_clip":
        text = {**config.get("text_cfg", {}), "vocab_size": vocab_size, "pad_id": pad_id}
        return {**config, "text_cfg": text}
    return {**config, "vocab_size": vocab_size, "pad_token_id": pad_id}
