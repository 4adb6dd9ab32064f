"""Correlated scenes: how much of a thing can be inferred from the rest of its scene, in bits.

Without correlation, every fact is drawn independently, and nothing that a caption leaves out can be
inferred. With it, each ground prefers three shapes and three colors, and each shape one texture.
All three preferences are equally strong, and chosen so that their mutual information adds up to the
requested bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np

MOST_BITS = 4.0  # a thing, of the 4.8 that the preferences could carry
Kinds = tuple[int, int, int, int]
_PREFERRED = 3  # shapes and colours of a ground: nine pairs for at most six things


@cache
def chances(bits: float, *, kinds: Kinds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p(shape | ground) (G, S), p(colour | ground) (G, C), p(texture | shape) (S, T).

    Args:
        bits: the sum of their mutual information, 0 to `MOST_BITS`.
        kinds: numbers of grounds, shapes, colors and textures.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        tables = _mix(middle, kinds)
        found = sum(information(table / len(table)) for table in tables)
        low, high = (middle, high) if found < bits else (low, middle)
    return _mix(low, kinds)


def _mix(share: float, kinds: Kinds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tables in which this share follows the preferences; the rest is uniform."""
    grounds, shapes, colours, textures = kinds
    of_ground = _PREFERRED * np.arange(grounds)[:, None] + np.arange(_PREFERRED)
    tables = [np.eye(shapes)[of_ground % shapes].mean(1)]
    # Shifted relative to the shapes, or the circle would always be red.
    tables.append(np.eye(colours)[(of_ground + colours // 2) % colours].mean(1))
    tables.append(np.eye(textures)[np.arange(shapes) % textures])
    shape, colour, texture = (share * t + (1 - share) / t.shape[1] for t in tables)
    return shape, colour, texture


def information(joint: np.ndarray) -> float:
    """Mutual information of two variables in bits, from their joint distribution."""
    parts = joint / (joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True) + 1e-300)
    return float((joint * np.log2(np.where(joint > 0, parts, 1.0))).sum())


def measure(pairs: Iterable[tuple[str, str]]) -> float:
    """Mutual information of two facts in bits, from their joint counts.

    Small samples look correlated by chance; this bias is subtracted (Miller, 1955).
    """
    counted = list(pairs)
    rows, columns = (sorted(set(names)) for names in zip(*counted, strict=True))
    joint = np.zeros((len(rows), len(columns)))
    for one, other in counted:
        joint[rows.index(one), columns.index(other)] += 1
    chance = ((joint > 0).sum() - len(rows) - len(columns) + 1) / (2 * np.log(2) * joint.sum())
    return max(0.0, information(joint / joint.sum()) - float(chance))
