"""The common interface of backbones from all libraries."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data.errors import UserError
from vse.model.backbones.heads import ClipHead
from vse.model.backbones.lora import add_adapters

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A library's model without its head; a CLIP's head is kept, to initialize ours."""

    width: int  # of a token
    clip_head: ClipHead | None = None
    lora: int | None = None  # the rank of its adapters, if any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.frozen: tuple[str, ...] = ()

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The plain description from which `build_backbone` rebuilds the architecture."""

    @abstractmethod
    def checkpoint_gradients(self) -> None:
        """Recompute activations inside the blocks in the backward pass instead of keeping them.

        Raises:
            UserError: this model cannot.
        """

    def weight_depths(self) -> dict[str, int]:
        """The depth of each weight: 0 = embeddings, 1 ... = blocks, beyond = final norm."""
        return order_depths([name for name, _ in self.named_parameters()])

    def block_count(self) -> int:
        """The number of blocks, 0 if it is unknown."""
        return count_blocks(self.weight_depths())

    def freeze(self, blocks: int | None) -> None:
        """Freeze the embeddings and the first `blocks` blocks, or everything if None.

        Frozen parts stay in evaluation mode: no dropout, no updates of BatchNorm statistics.

        Raises:
            UserError: there are fewer blocks.
        """
        if blocks is not None and blocks > self.block_count():
            raise UserError(
                f"{blocks} blocks are to be frozen, but the backbone has {self.block_count()}"
            )
        depths = self.weight_depths()
        for name, parameter in self.named_parameters():
            if blocks is None or depths[name] <= blocks:
                parameter.requires_grad_(False)
        names = [name for name, module in self.named_modules() if _is_still(module)]
        self.frozen = tuple(names if blocks is not None else [""])
        self.train(self.training)

    def add_lora(self, rank: int) -> None:
        """Train only adapters of this rank, see `vse.model.backbones.lora`."""
        blocks = self.block_count()
        depths = self.weight_depths().items()
        inside = {name.rpartition(".")[0] for name, depth in depths if 0 < depth <= blocks}
        add_adapters(self, rank, inside=inside)
        # A frozen BatchNorm must not follow the batches either.
        norms = [name for name, part in self.named_modules() if isinstance(part, _BatchNorm)]
        self.frozen = (*self.frozen, *norms)
        self.train(self.training)
        self.lora = rank

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode:
            for name in self.frozen:
                self.get_submodule(name).train(False)
        return self


class ImageBackbone(Backbone):
    """Images as tokens. mean and std normalize RGB values in [0, 1]."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) -> tokens (B, N, W), before any pooling."""


class TextBackbone(Backbone):
    """Texts as tokens. `positions` is the maximum length in tokens, None without a limit."""

    positions: int | None = None

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Token ids (B, L) and mask (B, L) bool, True = token -> tokens (B, L, W).

        Neither the content nor the amount of padding must affect the result.
        """

    def stretch_positions(self, positions: int) -> None:
        """Read texts of up to `positions` tokens, see `vse.model.backbones.stretch`.

        Raises:
            UserError: this model cannot.
        """
        raise UserError("text.positions is for text towers of CLIP and SigLIP: omit it")


def grid_tokens(grid: Tensor, *, channels_last: bool) -> Tensor:
    """(B, W, h, w) or (B, h, w, W) -> (B, h * w, W), row by row."""
    return grid.flatten(1, 2) if channels_last else grid.flatten(2).transpose(1, 2)


def _is_still(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


# Blocks within stages (Swin, ConvNeXt, CLIP's ResNet) before plain sequences of blocks.
PATTERNS = (
    re.compile(r"(?:^|\.)(?:stages|layers)\.(\d+)\.(?:blocks|layers)\.(\d+)\."),
    re.compile(r"(?:^|\.)layer(\d+)\.(\d+)\."),
    re.compile(r"(?:^|\.)(?:stages|layers?|blocks?|resblocks)\.(\d+)\."),
)


def order_depths(names: Sequence[str]) -> dict[str, int]:
    """Depths of weights in the order in which a model lists them.

    0: before the first block (embeddings, stem). 1, 2, ...: the blocks in order; layers between two
    stages belong to the block before them. One more: after the last block.
    """
    places = {name: _place(name) for name in names}
    found = {place for place in places.values() if place is not None}
    # A stage's downsampling is numbered with one index, its blocks with two. Swin lists it after
    # the blocks, ConvNeXt before them.
    stages = {place[:-1] for place in found}
    rank: dict[tuple[int, ...], int] = {}
    depths: dict[str, int] = {}
    after = []
    for name, place in places.items():
        if place is None and rank:
            after.append(name)
        if place is None or place in stages:
            depths[name] = len(rank)
        else:
            depths[name] = rank.setdefault(place, len(rank) + 1)
    return depths | dict.fromkeys(after, len(rank) + 1)


def count_blocks(depths: Mapping[str, int]) -> int:
    """The number of blocks that `order_depths` found."""
    found = [name for name in depths if _place(name) is not None]
    return max((depths[name] for name in found), default=0)


def _place(name: str) -> tuple[int, ...] | None:
    for pattern in PATTERNS:
        found = pattern.search(name)
        if found:
            return tuple(int(group) for group in found.groups())
    return None
