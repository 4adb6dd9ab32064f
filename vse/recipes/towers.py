"""Settings of the two towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vse.model.tokenizer.long_texts import WAYS
from vse.recipes.checks import one_of, require

Freeze = int | str


@dataclass(frozen=True)
class ImageTowerConfig:
    """A backbone by name, or built from nothing by `config`.

    name: a hub id or folder of transformers; timm:NAME with a timm name, hub id or folder;
    open_clip:ARCH/WEIGHTS, or open_clip: and a folder or hf-hub:ID.
    config: that of transformers (model_type, hidden_size, ...); library: timm with name and args;
    or library: open_clip with vision_cfg.
    mean, std: None = the backbone's own, and ImageNet's for those of transformers, as in the paper.
    """

    name: str | None = None  # whose weights training starts from
    config: dict[str, Any] | None = None  # instead of a name: random weights
    pretrained: bool = True  # false: the architecture of `name` alone, with random weights
    px: int = 384  # side of the square input of training and test
    token_drop: float = 0.2  # size augmentation; 0 switches it off
    mean: tuple[float, ...] | None = None  # of RGB in [0, 1]
    std: tuple[float, ...] | None = None  # of RGB in [0, 1]
    freeze: Freeze = "none"  # none | all | so many first blocks, with the embeddings
    checkpointing: bool = False  # activations are computed again instead of kept: memory for time

    def __post_init__(self) -> None:
        require(bool(self.name) != bool(self.config), "image needs either name or config")
        _check_freeze("image", self.freeze)
        for key in ("mean", "std"):
            values = getattr(self, key)
            require(values is None or len(values) == 3, f"image.{key} takes three numbers")
        require(self.std is None or min(self.std) > 0, "image.std must be positive")
        require(self.px > 0, f"image.px is {self.px}; it must be positive")
        require(0 <= self.token_drop < 1, "image.token_drop must lie in [0, 1)")


@dataclass(frozen=True)
class TextTowerConfig:
    """As for images, but timm has no text towers, and an open_clip config has text_cfg.

    From nothing, the tokenizer is built from the training texts.
    """

    name: str | None = None  # whose weights and tokenizer training starts from
    config: dict[str, Any] | None = None  # instead of a name: random weights
    pretrained: bool = True  # false: the architecture and tokenizer of `name`, random weights
    vocab_size: int = 2000  # upper bound of a tokenizer built from the training texts
    max_tokens: int = 512  # the share of texts that are longer is printed
    too_long: str = (
        "cut"  # what of them is read: cut | sentence | sample, see vse.model.tokenizer.long_texts
    )
    dropout: float = 0.2  # on the backbone's last hidden states
    head_on_padding: bool = False  # as released: BatchNorm counts padding rows as words
    freeze: Freeze = "none"  # none | all | so many first blocks, with the embeddings
    checkpointing: bool = False  # activations are computed again instead of kept

    def __post_init__(self) -> None:
        require(bool(self.name) != bool(self.config), "text needs either name or config")
        _check_freeze("text", self.freeze)
        timm = (self.name or "").startswith("timm:") or (self.config or {}).get("library") == "timm"
        require(not timm, f"text.name is {self.name}, but timm has no text towers")
        one_of("text.too_long", self.too_long, WAYS)
        require(self.max_tokens >= 4, "text.max_tokens must be at least 4")
        require(0 <= self.dropout < 1, "text.dropout must lie in [0, 1)")


def _check_freeze(part: str, freeze: Freeze) -> None:
    known = freeze in ("none", "all") if isinstance(freeze, str) else freeze >= 0
    require(known, f"{part}.freeze is {freeze!r}; it must be none, all or a number of blocks")
