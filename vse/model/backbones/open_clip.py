"""Both towers of the models of open_clip, by name or folder: tokens before pooling.

Image towers that open_clip takes from timm, and text towers that it takes from transformers, become
backbones of that library once their weights are loaded.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import resize_pos_embed
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from data.errors import UserError, one_line
from vse.model.backbones import huggingface
from vse.model.backbones.base import Backbone, ImageBackbone, TextBackbone, grid_tokens
from vse.model.backbones.heads import read_head
from vse.model.backbones.long_clip import read_long_clip
from vse.model.backbones.stretch import stretch_codes
from vse.model.backbones.timm import adopt_timm

PREFIX = "open_clip:"
# The other tower of a model, if only one is needed.
NO_IMAGE = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
NO_TEXT = {"layers": 1, "width": 8, "heads": 1, "vocab_size": 8, "context_length": 8}


class OpenClipImage(ImageBackbone):
    """CLIP's ViT with [CLS] (positions interpolated to any size), or its ResNet's feature map."""

    def __init__(self, model: nn.Module, config: dict[str, Any]) -> None:
        super().__init__(model)
        self.config = config
        visual: Any = model
        if isinstance(model, ModifiedResNet):
            self.width = visual.layer4[-1].bn3.num_features
            visual.attnpool = None
        else:
            self.width = visual.conv1.out_channels
            visual.proj = None
            if visual.attn_pool is not None:
                # The norm after CoCa's pooling has the width of the pooled output.
                visual.attn_pool = visual.attn_pool_contrastive = None
                visual.ln_post = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        visual: Any = self.model
        if isinstance(visual, ModifiedResNet):
            grid = visual.stem(pixels)
            for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
                grid = layer(grid)
            return grid_tokens(grid, channels_last=False)
        grid = visual.conv1(pixels)
        # Not len(grid): an exporter would fix that as the batch size.
        first = visual.class_embedding.to(grid.dtype).expand(grid.shape[0], 1, -1)
        x = torch.cat((first, grid_tokens(grid, channels_last=False)), dim=1)
        x = x + self._positions(grid.shape[2], grid.shape[3]).to(x.dtype)
        x = visual.transformer(visual.ln_pre(visual.patch_dropout(x)))
        tokens: Tensor = visual.ln_post(x)
        return tokens

    def _positions(self, rows: int, columns: int) -> Tensor:
        """(1 + rows * columns, W), resized as open_clip does when it loads weights."""
        visual: Any = self.model
        codes: Tensor = visual.positional_embedding
        if (rows, columns) == tuple(visual.grid_size):
            return codes
        grid = codes[1:].T.reshape(1, -1, *visual.grid_size)
        resized = nn.functional.interpolate(
            grid, size=(rows, columns), mode="bicubic", antialias=True, align_corners=False
        )
        return torch.cat((codes[:1], grid_tokens(resized, channels_last=False)[0]))

    def describe(self) -> dict[str, Any]:
        return {"library": "open_clip", "vision_cfg": self.config["vision_cfg"], **_act(self)}

    def checkpoint_gradients(self) -> None:
        if isinstance(self.model, ModifiedResNet):
            raise UserError("CLIP's ResNet cannot checkpoint gradients")
        self.model.set_grad_checkpointing(True)  # type: ignore[operator]


class OpenClipText(TextBackbone):
    """CLIP's text transformer, causal or not.

    Non-causal ones were trained on texts padded to a fixed length, with attention to the padding;
    the same padding is used here, whatever the length of the batch.

    Args:
        pad_id: the padding id of the tokenizer.
    """

    def __init__(self, model: nn.Module, config: dict[str, Any], *, pad_id: int) -> None:
        super().__init__(model)
        self.config = config
        self.pad_id = pad_id
        text: Any = model
        self.width = text.width
        self.positions = text.context_length
        text.text_projection = None
        if text.cls_emb is not None:
            # CoCa appends a class token, whose norm differs from that of the words.
            text.cls_emb = None
            text.ln_final = nn.Identity()

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        text: Any = self.model
        length = ids.shape[1]
        attend = None
        if text.attn_mask is not None:
            # Causal attention does not see later tokens, so padding has no effect.
            attend = text.attn_mask[:length, :length]
        else:
            if mask is not None:
                ids = ids.masked_fill(~mask, self.pad_id)
            ids = nn.functional.pad(ids, (0, text.context_length - length), value=self.pad_id)
        x = text.token_embedding(ids)
        x = x + text.positional_embedding[: ids.shape[1]].to(x.dtype)
        tokens: Tensor = text.ln_final(text.transformer(x, attn_mask=attend))
        return tokens[:, :length]

    def stretch_positions(self, positions: int) -> None:
        text: Any = self.model
        codes, length = text.positional_embedding, text.context_length
        # CoCa has one more for its class token, which is not used.
        more = codes.detach()[length:]
        read = stretch_codes(codes.detach()[:length], positions)
        text.positional_embedding = nn.Parameter(torch.cat((read, more)))
        text.context_length, text.num_pos = positions, positions + len(more)
        if text.attn_mask is not None:
            text.attn_mask = text.build_causal_mask()
        self.positions = positions
        text_cfg = {**self.config["text_cfg"], "context_length": positions}
        self.config = {**self.config, "text_cfg": text_cfg}

    def describe(self) -> dict[str, Any]:
        text_cfg = {**self.config["text_cfg"], "pad_id": self.pad_id}
        return {"library": "open_clip", "text_cfg": text_cfg, **_act(self)}

    def checkpoint_gradients(self) -> None:
        self.model.set_grad_checkpointing(True)  # type: ignore[operator]


def load_open_clip(name: str, *, part: str, pretrained: bool, px: int, pad_id: int) -> Backbone:
    """One tower of the model `name`: open_clip:ARCH/WEIGHTS, or a hub id or folder.

    Args:
        part: image or text.

    Raises:
        UserError: no such model or weights, or they are not available.
    """
    source, weights = parse_name(name, pretrained=pretrained)
    tag = open_clip.get_pretrained_cfg(source, weights) if weights else {}
    try:
        config = open_clip.get_model_config(source)
        if tag:
            # The activation with which the weights were trained, not the architecture's default.
            config["quick_gelu"] = bool(tag.get("quick_gelu", False))
        with silence():
            longer = read_long_clip(weights, config["text_cfg"])
            if longer is not None:
                config["text_cfg"]["context_length"] = longer.positions
            by_open_clip = pretrained and longer is None
            model = open_clip.create_model(
                source,
                pretrained=weights if by_open_clip else None,
                load_weights=by_open_clip,
                require_pretrained=by_open_clip,
                force_custom_text=True,
                force_context_length=None if longer is None else longer.positions,
                pretrained_text=False,
                quick_gelu=config.get("quick_gelu", False),
                device=torch.get_default_device(),  # meta in a dry run
            )
            if longer is not None:
                resize_pos_embed(longer.weights, model)  # of images, as open_clip does
                model.load_state_dict(longer.weights)
    except Exception as error:  # open_clip can raise anything: files, hub, network
        raise UserError(_missing(name, part, error, pretrained=pretrained)) from error
    head = read_head(model, part=part)
    if part == "text":
        text = _adopt_text(model.text, config, pad_id=pad_id)
        text.clip_head = head
        return text
    backbone = _adopt_image(model.visual, config, px=px)
    cfg = open_clip.get_model_preprocess_cfg(model)
    backbone.mean, backbone.std = tuple(cfg["mean"]), tuple(cfg["std"])
    backbone.clip_head = head
    return backbone


def build_open_clip(description: dict[str, Any], *, px: int) -> Backbone:
    """The same tower with random weights; needs no network.

    Raises:
        UserError: a tower of another library, or settings that open_clip refuses.
    """
    # A shared model includes its description, which must not fetch anything else.
    for part, key, library in (
        ("vision_cfg", "timm_model_name", "timm"),
        ("text_cfg", "hf_model_name", "transformers"),
    ):
        if description.get(part, {}).get(key):
            raise UserError(f"{part}.{key}: describe that tower as one of {library}")
    config = {k: v for k, v in description.items() if k != "library"}
    image = "vision_cfg" in config
    whole = {"embed_dim": 8, "vision_cfg": NO_IMAGE, "text_cfg": NO_TEXT, **config}
    try:
        model = open_clip.CustomTextCLIP(**whole)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        reason = one_line(error)
        raise UserError(f"cannot build a tower of open_clip from {config}: {reason}") from error
    if image:
        backbone = _adopt_image(model.visual, config, px=px)
        backbone.mean = open_clip.OPENAI_DATASET_MEAN
        backbone.std = open_clip.OPENAI_DATASET_STD
        return backbone
    return _adopt_text(model.text, config, pad_id=config["text_cfg"].get("pad_id", 0))


def parse_name(name: str, *, pretrained: bool, else_random: bool = True) -> tuple[str, str | None]:
    """open_clip:ARCH/WEIGHTS -> open_clip's name of the model, and its weights.

    Args:
        else_random: whether weights are optional, which the error then mentions.

    Raises:
        UserError: no such model or weights, or required weights are not named.
    """
    given = name.removeprefix(PREFIX)
    if given.startswith(("hf-hub:", "local-dir:")):
        return given, None
    if Path(given).is_dir():
        return f"local-dir:{given}", None
    arch, _, weights = given.partition("/")
    known = open_clip.list_models()
    if arch not in known:
        near = difflib.get_close_matches(arch, known, n=1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise UserError(f"open_clip has no model {arch}{hint}")
    if not pretrained:
        return arch, None
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if weights not in tags and not Path(weights).is_file():
        listed = ", ".join(f"{PREFIX}{arch}/{tag}" for tag in tags[:6]) or "none"
        more = f" and {len(tags) - 6} more" if len(tags) > 6 else ""
        way_out = ", and pretrained=false starts from random ones" if else_random else ""
        raise UserError(
            f"{name} does not specify weights: {arch} has {listed}{more}; the path of a checkpoint "
            f"also works{way_out}"
        )
    return arch, weights


def _adopt_image(visual: nn.Module, config: dict[str, Any], *, px: int) -> ImageBackbone:
    if isinstance(visual, VisionTransformer | ModifiedResNet):
        return OpenClipImage(visual, config)
    assert isinstance(visual, TimmModel)
    trunk: Any = visual.trunk
    if hasattr(trunk, "set_input_size"):
        trunk.set_input_size(img_size=(px, px))
    return adopt_timm(trunk, px=px)


def _adopt_text(text: nn.Module, config: dict[str, Any], *, pad_id: int) -> TextBackbone:
    if isinstance(text, TextTransformer):
        return OpenClipText(text, config, pad_id=pad_id)
    encoder: Any = text.transformer
    if hasattr(encoder, "pooler"):
        encoder.pooler = None
    made = huggingface.adopt(encoder, where="the text tower", config=text.config)
    assert isinstance(made, TextBackbone)
    return made


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Silence open_clip's log while loading: errors repeat what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # It compares the weights' activation with the architecture's default, not with ours.
            warnings.filterwarnings("ignore", message="QuickGELU mismatch")
            yield
    finally:
        logging.disable(before)


def _missing(name: str, part: str, error: Exception, *, pretrained: bool) -> str:
    given, reason = name.removeprefix(PREFIX), one_line(error)
    if not pretrained or Path(given).is_dir():
        return f"cannot load {name}: {reason}"
    arch, _, weights = given.partition("/")
    repo = (open_clip.get_pretrained_cfg(arch, weights) or {}).get("hf_hub", "").rstrip("/")
    if given.startswith("hf-hub:"):
        repo = given.removeprefix("hf-hub:")
    fetch = f"run `hf download {repo}`" if repo else "load them once"
    return (
        f"the weights of {name} are neither in the Hugging Face cache nor available ({reason}); "
        f"{fetch} where there is a network (HF_HOME sets the location of the cache), use a local "
        "folder (open_clip:FOLDER), or start from random weights with --set "
        f"{part}.pretrained=false"
    )


def _act(backbone: OpenClipImage | OpenClipText) -> dict[str, Any]:
    return {"quick_gelu": backbone.config.get("quick_gelu", False)}
