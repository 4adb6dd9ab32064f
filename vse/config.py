"""Every setting of a training run, as frozen dataclasses; no torch here.

A recipe is a YAML file with the sections of `Recipe` plus `stages`, which overrides any of them
for one stage ("1", "2" or "sparse"). An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from data.errors import UserError

STAGES = ("1", "2", "sparse")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{where} is {value!r}; it must be one of {', '.join(allowed)}")


@dataclass(frozen=True)
class ImageTowerConfig:
    """A backbone by hub id or local folder (`name`), or built from nothing by `config`."""

    name: str | None = None
    config: dict[str, Any] | None = None  # a transformers config: model_type, hidden_size, ...
    px: int = 384  # side of the square input of training and test
    token_drop: float = 0.2  # size augmentation; 0 switches it off

    def __post_init__(self) -> None:
        _require(bool(self.name) != bool(self.config), "image needs either name or config")
        _require(self.px > 0, f"image.px is {self.px}; it must be positive")
        _require(0 <= self.token_drop < 1, "image.token_drop must lie in [0, 1)")


@dataclass(frozen=True)
class TextTowerConfig:
    """Like `ImageTowerConfig`; from nothing, the tokenizer is built from the training texts."""

    name: str | None = None
    config: dict[str, Any] | None = None
    vocab_size: int = 2000  # upper bound of a tokenizer built from the training texts
    max_tokens: int = 512  # longer texts are cut there, and the share cut is printed
    dropout: float = 0.2  # on the backbone's last hidden states

    def __post_init__(self) -> None:
        _require(bool(self.name) != bool(self.config), "text needs either name or config")
        _require(self.max_tokens >= 4, "text.max_tokens must be at least 4")
        _require(0 <= self.dropout < 1, "text.dropout must lie in [0, 1)")


@dataclass(frozen=True)
class DecoderConfig:
    """Stage 2: mask tokens beside the words, pre-norm transformer blocks, pooled to r."""

    tokens: int = 100
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    placement: str = "surround"  # prefix | postfix | surround
    pooling: str = "mean"  # mean | gpo
    residual: bool = True  # text embedding t + r, else r alone

    def __post_init__(self) -> None:
        _one_of("decoder.placement", self.placement, ("prefix", "postfix", "surround"))
        _one_of("decoder.pooling", self.pooling, ("mean", "gpo"))
        _require(self.tokens > 0 and self.depth >= 0, "decoder.tokens and depth must be positive")


@dataclass(frozen=True)
class LossConfig:
    """L = align + distill_weight * distill, each with its own reduction over the batch."""

    align: str = "hinge"  # hinge | infonce | siglip
    align_reduction: str = "sum"  # of the hinge over the batch: sum | mean (sum / B)
    margin: float = 0.2
    sum_epochs: int = 1  # hinge: epochs over all negatives, ramped up, before the hardest alone
    temperature: float = 0.07  # infonce: where the learnable temperature starts
    distill: str = "cosine"  # cosine | l1 | l2
    distill_reduction: str = "mean"  # mean | sum (mean * B)
    distill_weight: float = 1.0
    on_collapse: str = "stop"  # stop | warn

    def __post_init__(self) -> None:
        _one_of("loss.align", self.align, ("hinge", "infonce", "siglip"))
        _one_of("loss.align_reduction", self.align_reduction, ("sum", "mean"))
        _one_of("loss.distill", self.distill, ("cosine", "l1", "l2"))
        _one_of("loss.distill_reduction", self.distill_reduction, ("mean", "sum"))
        _one_of("loss.on_collapse", self.on_collapse, ("stop", "warn"))
        _require(self.temperature > 0, "loss.temperature must be positive")


@dataclass(frozen=True)
class DataConfig:
    """What a sample is and how it is augmented."""

    items: str = "captions"  # an epoch counts captions, or images (one caption drawn each time)
    word_mask: float = 0.2  # share of basic words masked, replaced or deleted in training
    crop_min: float = 0.6  # side ratio of the random crop ~ U(crop_min, 1)
    flip: float = 0.5
    cache_images: bool = False  # decode and resize once into one uint8 array on disk
    workers: int = 0  # loader processes; 0 = in the training process
    max_missing: float = 0.1  # share of a split's images that may lack a file or dense text
    captions_per_image: int | None = None  # only the first so many; None = all
    sentences: int | None = None  # stage 1: a step reads 1 to so many of a dense text's; None = all

    def __post_init__(self) -> None:
        _one_of("data.items", self.items, ("captions", "images"))
        _require(0 <= self.word_mask <= 1, "data.word_mask must lie in [0, 1]")
        _require(0 < self.crop_min <= 1, "data.crop_min must lie in (0, 1]")
        _require(0 <= self.max_missing <= 1, "data.max_missing must lie in [0, 1]")
        cut = self.captions_per_image
        _require(cut is None or cut > 0, "data.captions_per_image must be positive")
        most = self.sentences
        _require(most is None or most > 0, "data.sentences must be positive")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule, and how long."""

    batch_size: int = 128  # global: all processes together
    epochs: int = 30
    steps: int | None = None  # when set, decides instead of epochs
    lr: float = 2e-4  # heads, decoder, temperature
    backbone_lr: float = 2e-5
    weight_decay: float = 1e-4
    schedule: str = "step"  # step | cosine | constant
    milestones: tuple[int, ...] = (9, 15, 20, 25)  # epochs, counted from 0
    gamma: float = 0.3
    warmup_steps: int = 0
    clip: float = 2.0  # of the gradient norm, after unscaling
    precision: str = "fp32"  # fp32 | bf16 | fp16 (the last two on a GPU)
    eval_every: int | None = None  # steps; None = every epoch
    log_every: int = 10  # steps; the only moments at which the loss is read from the device
    save_minutes: float = 10.0  # the state is saved when it is older, besides at evaluations
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("optim.schedule", self.schedule, ("step", "cosine", "constant"))
        _one_of("optim.precision", self.precision, ("fp32", "bf16", "fp16"))
        _require(self.batch_size >= 2, "optim.batch_size must be at least 2: no negatives else")
        for name in ("epochs", "log_every", "save_minutes"):
            _require(getattr(self, name) > 0, f"optim.{name} must be positive")
        for name in ("steps", "eval_every"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"optim.{name} must be positive")


@dataclass(frozen=True)
class Recipe:
    """One stage's complete settings."""

    image: ImageTowerConfig
    text: TextTowerConfig
    width: int = 512  # D, the joint width
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        heads = self.decoder.heads
        _require(
            self.width % heads == 0, f"width {self.width} is no multiple of {heads} decoder.heads"
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


T = TypeVar("T")


def build(cls: type[T], values: dict[str, Any], *, where: str = "") -> T:
    """Make the dataclass `cls` from plain values, checking keys and types on the way down.

    Raises:
        UserError: an unknown key (naming the nearest), a wrong type, or a value out of range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where or 'the recipe'} must be a mapping, not {values!r}")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise UserError(f"unknown setting {path}{_did_you_mean(str(key), known, where)}")
        made[key] = _convert(hints[key], value, path)
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in made
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"the recipe lacks {', '.join(missing)}")
    return cls(**made)


def _did_you_mean(key: str, known: list[str], where: str) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    prefix = f"{where}." if where else ""
    return f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(known)}"


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where=path)
    allowed = [a for a in typing.get_args(hint) if a is not type(None)]
    if value is None and type(None) in typing.get_args(hint):
        return None
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or not all(type(v) is int for v in value):
            raise UserError(f"{path} is {value!r}; it must be a list of whole numbers")
        return tuple(value)
    plain = hint if not allowed or typing.get_origin(hint) is dict else allowed[0]
    plain = typing.get_origin(plain) or plain
    if plain is float and type(value) is int:
        return float(value)
    if not isinstance(value, plain) or (plain is not bool and isinstance(value, bool)):
        raise UserError(f"{path} is {value!r}; it must be of type {plain.__name__}")
    return value
