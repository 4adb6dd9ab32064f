"""Settings of the two towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vse.config.checks import require


@dataclass(frozen=True)
class ImageTowerConfig:
    """A backbone by hub id or local folder (`name`), or built from nothing by `config`."""

    name: str | None = None
    config: dict[str, Any] | None = None  # a transformers config: model_type, hidden_size, ...
    px: int = 384  # side of the square input of training and test
    token_drop: float = 0.2  # size augmentation; 0 switches it off

    def __post_init__(self) -> None:
        require(bool(self.name) != bool(self.config), "image needs either name or config")
        require(self.px > 0, f"image.px is {self.px}; it must be positive")
        require(0 <= self.token_drop < 1, "image.token_drop must lie in [0, 1)")


@dataclass(frozen=True)
class TextTowerConfig:
    """Like `ImageTowerConfig`; from nothing, the tokenizer is built from the training texts."""

    name: str | None = None
    config: dict[str, Any] | None = None
    vocab_size: int = 2000  # upper bound of a tokenizer built from the training texts
    max_tokens: int = 512  # longer texts are cut there, and the share cut is printed
    dropout: float = 0.2  # on the backbone's last hidden states
    head_on_padding: bool = False  # as released: BatchNorm counts padding rows as words

    def __post_init__(self) -> None:
        require(bool(self.name) != bool(self.config), "text needs either name or config")
        require(self.max_tokens >= 4, "text.max_tokens must be at least 4")
        require(0 <= self.dropout < 1, "text.dropout must lie in [0, 1)")
