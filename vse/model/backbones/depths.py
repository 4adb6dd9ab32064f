"""How deep each weight of a backbone lies, read from its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Blocks within stages (Swin, ConvNeXt, CLIP's ResNet) before blocks in one row.
PATTERNS = (
    re.compile(r"(?:^|\.)(?:stages|layers)\.(\d+)\.(?:blocks|layers)\.(\d+)\."),
    re.compile(r"(?:^|\.)layer(\d+)\.(\d+)\."),
    re.compile(r"(?:^|\.)(?:stages|layers?|blocks?|resblocks)\.(\d+)\."),
)


def order_depths(names: Sequence[str]) -> dict[str, int]:
    """Depths of weights in the order in which a model lists them.

    0: before the first block (embeddings, stem). 1, 2, ...: the blocks in their order; what lies
    between two stages belongs to the block before it. One more: after the last block.
    """
    places = {name: _place(name) for name in names}
    blocks = sorted({place for place in places.values() if place is not None})
    # A stage's downsampling has a place of one number where blocks have two.
    deepest = max((len(place) for place in blocks), default=0)
    rank: dict[tuple[int, ...], int] = {}
    count = 0
    for place in sorted(blocks, key=lambda place: (*place, *[1 << 30] * (deepest - len(place)))):
        stage_of_blocks = len(place) < deepest and any(
            len(other) == deepest and other[: len(place)] == place for other in blocks
        )
        count += not stage_of_blocks
        rank[place] = count
    depths: dict[str, int] = {}
    begun = False
    for name, found in places.items():
        begun |= found is not None
        depths[name] = rank[found] if found is not None else (count + 1 if begun else 0)
    return depths


def count_blocks(depths: Mapping[str, int]) -> int:
    """How many blocks `order_depths` found."""
    found = [name for name in depths if _place(name) is not None]
    return max((depths[name] for name in found), default=0)


def _place(name: str) -> tuple[int, ...] | None:
    for pattern in PATTERNS:
        found = pattern.search(name)
        if found:
            return tuple(int(group) for group in found.groups())
    return None
