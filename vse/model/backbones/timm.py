"""Image backbones of timm by name, hub id or local folder: the features before any pooling."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from data.errors import UserError, one_line
from vse.model.backbones.base import ImageBackbone, grid_tokens
from vse.model.backbones.probe import FAILURES, shape_of

PREFIX = "timm:"
# Arguments with which timm would read weights or access the network.
REACHING = {
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
}


class TimmImage(ImageBackbone):
    """A timm model without classifier and pooling.

    A norm between pooling and classifier is applied to the tokens. Models whose pooling cannot be
    removed return its input.

    Args:
        name: architecture, without the tag of the weights.
        args: the arguments for timm besides the size.
        unpooled: whether the pooling was removed; else `forward_features` is used.
    """

    def __init__(
        self, model: nn.Module, *, name: str, args: dict[str, Any], unpooled: bool
    ) -> None:
        super().__init__(model)
        self.name = name
        self.args = args
        self.unpooled = unpooled
        self.features = not unpooled
        cfg: Any = model.pretrained_cfg
        self.mean, self.std = tuple(cfg["mean"]), tuple(cfg["std"])

    def forward(self, pixels: Tensor) -> Tensor:
        model: Any = self.model
        found = model.forward_features(pixels) if self.features else model(pixels)
        if isinstance(found, list | tuple):  # one entry per scale, the coarsest last
            found = found[-1]
            if type(model).__name__.startswith("EfficientViM"):
                found = found.transpose(1, 2)  # (B, W, N), unlike all others
        if found.ndim == 4:
            last = str(getattr(model, "output_fmt", "")).endswith("NHWC")
            return grid_tokens(found, channels_last=last)
        return found

    def describe(self) -> dict[str, Any]:
        return {
            "library": "timm",
            "name": self.name,
            "args": self.args,
            "width": self.width,
            "features": self.features,
        }

    def checkpoint_gradients(self) -> None:
        try:
            self.model.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AssertionError, AttributeError) as error:
            raise UserError(f"{PREFIX}{self.name} cannot checkpoint gradients") from error

    def weight_depths(self) -> dict[str, int]:
        if not hasattr(self.model, "group_matcher"):
            return super().weight_depths()
        matcher: Any = self.model.group_matcher
        found = timm.models.group_parameters(self.model, matcher(coarse=False), reverse=True)
        return {f"model.{name}": depth for name, depth in found.items()}

    def block_count(self) -> int:
        if not hasattr(self.model, "group_matcher"):
            return super().block_count()
        return max(self.weight_depths().values())


def load_timm(name: str, *, pretrained: bool, px: int) -> TimmImage:
    """The model `name` (timm:NAME, NAME a timm name, a hub id or a folder) for px x px images.

    Raises:
        UserError: no such model, unavailable weights, or a size that it does not accept.
    """
    given = name.removeprefix(PREFIX)
    source = given
    if Path(given).is_dir():
        source = f"local-dir:{given}"
    elif "/" in given and ":" not in given:
        source = f"hf-hub:{given}"
    elif ":" not in given:
        _check_known(given)
    try:
        model = _create(source, {}, pretrained=pretrained, px=px)
    except Exception as error:  # timm can raise anything: files, hub, network
        raise UserError(_missing(given, error, pretrained=pretrained)) from error
    return adopt_timm(model, px=px)


def build_timm(description: dict[str, Any], *, px: int) -> TimmImage:
    """The same architecture with random weights; needs no network.

    Raises:
        UserError: not an architecture of timm, or arguments that it refuses or that would load
            something.
    """
    name, args = str(description["name"]), dict(description.get("args", {}))
    # A shared model includes its description, which must not fetch anything else.
    if not timm.is_model(name) or set("/:") & set(name):
        raise UserError(f"timm has no architecture {name}")
    if reaching := sorted(REACHING & set(args)):
        raise UserError(f"an architecture takes no {', '.join(reaching)}: use timm:NAME instead")
    try:
        model = _create(name, args, pretrained=False, px=px)
    except Exception as error:  # models reject arguments in many ways
        raise UserError(f"cannot build timm's {name} with {args}: {one_line(error)}") from error
    return adopt_timm(model, px=px, known=description)


def adopt_timm(model: Any, *, px: int, known: dict[str, Any] | None = None) -> TimmImage:
    """Remove the head and determine the layout of the output.

    Args:
        known: an earlier description of the same model, with this information.

    Raises:
        UserError: the model does not accept px x px pixels, or returns no tokens.
    """
    given = dict(getattr(model, "_model_args", {}))
    backbone = TimmImage(
        model,
        name=model.pretrained_cfg["architecture"],
        args={k: v for k, v in given.items() if k not in ("img_size", "num_classes")},
        unpooled=_take_head_off(model),
    )
    if known is not None and "width" in known:
        backbone.width, backbone.features = known["width"], known["features"]
        return backbone
    reason = "it gives one vector per image"
    for features in (False, True) if backbone.unpooled else (True,):
        backbone.features = features
        try:
            shape = shape_of(backbone, torch.zeros(1, 3, px, px))
        except FAILURES as error:
            reason = one_line(error)
            continue
        if len(shape) == 3:
            backbone.width = shape[-1]
            return backbone
    raise UserError(
        f"{PREFIX}{backbone.name} gives no tokens for {px} x {px} pixels ({reason}): try another "
        "size with --set image.px=..."
    )


def _check_known(name: str) -> None:
    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch, timm.list_models(), n=1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise UserError(f"timm has no model {arch}{hint}")
    known = timm.list_pretrained(f"{arch}.*")
    if tag and name not in known:
        listed = ", ".join(PREFIX + other for other in known) or "none"
        raise UserError(f"timm has no weights {PREFIX}{name}; for {arch} it has {listed}")


def _create(name: str, args: dict[str, Any], *, pretrained: bool, px: int) -> nn.Module:
    """Create the model for px if it has a fixed size: positions and windows depend on it."""
    try:
        made: nn.Module = timm.create_model(name, pretrained=pretrained, img_size=px, **args)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        made = timm.create_model(name, pretrained=pretrained, **args)
    return made


def _take_head_off(model: Any) -> bool:
    """Remove the classifier, and the pooling if possible: then True."""
    try:
        model.reset_classifier(0, "")
    except (AssertionError, TypeError, AttributeError, NotImplementedError):
        if hasattr(model, "reset_classifier"):
            model.reset_classifier(0)
        return False
    return True


def _missing(name: str, error: Exception, *, pretrained: bool) -> str:
    reason = one_line(error)
    if Path(name).is_dir() or not pretrained:
        return f"cannot load {PREFIX}{name}: {reason}"
    cfg = None if set("/:") & set(name) else timm.get_pretrained_cfg(name)
    repo = name if cfg is None else cfg.hf_hub_id
    fetch = f"run `hf download {repo}`" if repo else "load them once"
    return (
        f"the weights of {PREFIX}{name} are neither in the Hugging Face cache nor available "
        f"({reason}); {fetch} where there is a network (HF_HOME sets the location of the cache), "
        "use a local folder (timm:FOLDER), or start from random weights with --set "
        "image.pretrained=false"
    )
