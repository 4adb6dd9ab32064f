"""`python -m tests.golden.check PATH`: our model against a golden pair, PATH.json and PATH.npz.

Exits 1 naming the first array, loss, gradient norm or learning rate that differs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data.errors import UserError
from tests.golden.ours import Outcome
from tests.golden.pair import Pair, read_pair
from vse.released.keys import our_key

RELATIVE, FLOOR = 1e-4, 1e-5  # the floor is a share of the largest of the array or group
INPUTS = ("images", "sparse_ids", "sparse_len", "dense_ids", "dense_len", "image_index")


class DifferenceError(Exception):
    """The first number that differs."""


def compare(pair: Pair) -> Counter[str]:
    """Compare everything in the pair with what our model makes of it; counts what was compared.

    Raises:
        DifferenceError: says which number differs, and by how much.
    """
    counts: Counter[str] = Counter()
    seen: set[str] = set(INPUTS)
    for stage in sorted(pair.shapes):
        try:
            outcome = Outcome(pair, stage)
        except (UserError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DifferenceError(f"stage{stage}_keys: {reason}") from error
        for kind, name in _compare_stage(pair, stage, outcome):
            counts[kind] += 1
            seen.add(name)
    for name in (*pair.arrays, *pair.numbers):
        counts[f"unknown ({name}), not compared"] += name not in seen
    return +counts


def _compare_stage(pair: Pair, stage: int, outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Yields what was compared: its kind and the name that the pair has for it."""
    shapes = {k: s for k, s in pair.shapes[stage].items() if our_key(k) is not None}
    if outcome.shapes() != shapes:
        odd = sorted({*outcome.shapes().items()} ^ {*shapes.items()})[0]
        raise DifferenceError(f"stage{stage}_keys: {odd[0]} {odd[1]} is on one side only")
    yield from (("weights' names and shapes", f"stage{stage}_keys") for _ in shapes)
    for name, found in outcome.arrays().items():
        if name in pair.arrays:
            _compare_array(name, found[..., :: pair.stride], pair.arrays[name])
            yield "arrays", name
    for name, value, norms in outcome.losses():
        expected = pair.numbers[name]
        assert isinstance(expected, float)
        _compare_array(name, np.array(value), np.array(expected))
        yield "losses", name
        group = f"s{stage}_gradnorm_{'hard' if '_hard' in name else 'sum'}"
        if group in pair.numbers:
            yield from _compare_group("gradient norms", group, norms, pair)
    if f"s{stage}_lr" in pair.numbers:
        yield from _compare_group("learning rates", f"s{stage}_lr", outcome.rates(), pair)


def _compare_group(
    kind: str, name: str, found: Mapping[str, float], pair: Pair
) -> Iterator[tuple[str, str]]:
    """A number for each weight; those that the released model never reads have no counterpart."""
    group = pair.numbers[name]
    assert isinstance(group, dict)
    expected = {key: value for key, value in group.items() if our_key(key) is not None}
    alone = sorted(set(expected) ^ set(found))
    if alone:
        side = "the released code" if alone[0] in expected else "ours"
        raise DifferenceError(f"{name}: {alone[0]} has a number on the side of {side} only")
    floor = FLOOR * max(map(abs, expected.values()))
    for key, value in expected.items():
        if abs(found[key] - value) > max(RELATIVE * abs(value), floor):
            raise DifferenceError(f"{name}: {key} is {found[key]:.8g} instead of {value:.8g}")
        yield kind, name
    yield from (
        ("weights never read, not compared", name) for _ in range(len(group) - len(expected))
    )


def _compare_array(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    if found.shape != expected.shape:
        raise DifferenceError(f"{name}: shape {found.shape} instead of {expected.shape}")
    floor = FLOOR * float(np.abs(expected).max())
    excess = np.abs(found - expected) - np.maximum(RELATIVE * np.abs(expected), floor)
    # Not `excess > 0`: what is no number differs too.
    if not (excess <= 0).all():
        where = np.unravel_index(int(np.nan_to_num(excess, nan=np.inf).argmax()), excess.shape)
        place = f" at {tuple(map(int, where))}" if where else ""
        raise DifferenceError(
            f"{name}: {found[where]:.8g} instead of {expected[where]:.8g}{place}; "
            f"{int((~(excess <= 0)).sum())} of {excess.size} numbers differ"
        )


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(
            "usage: python -m tests.golden.check PATH (of PATH.json and PATH.npz)", file=sys.stderr
        )
        return 2
    try:
        pair = read_pair(Path(arguments[0]))
        counts = compare(pair)
    except DifferenceError as found:
        print(f"differs: {found}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{pair.name}: the same within {RELATIVE:g}: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
