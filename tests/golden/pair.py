"""A golden pair: NAME.json (settings, names and shapes, losses, norms, rates) and NAME.npz."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from tests.golden.formula import formula

Formula = Callable[[str, tuple[int, ...], int], np.ndarray]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Pair:
    """What one run of the released code said.

    shapes: of all weights, per stage. numbers: losses, and by name of a weight gradient norms and
    learning rates. arrays: inputs and outputs; of outputs every `stride`-th of the last dimension.
    """

    name: str
    meta: Mapping[str, Any]
    shapes: Mapping[int, Shapes]
    numbers: Mapping[str, float | dict[str, float]]
    arrays: Mapping[str, np.ndarray]
    formula: Formula
    stride: int = 1

    def weights(self, stage: int) -> dict[str, np.ndarray]:
        """Every floating weight under its released name; counters keep their own values."""
        seed = self.meta["seed"]
        return {
            key: self.formula(key.removeprefix("long_"), shape, seed)
            for key, shape in self.shapes[stage].items()
            if not is_integer(key)
        }


def is_integer(key: str) -> bool:
    """Whether a weight of this name is a counter or a table of places."""
    return key.endswith(("num_batches_tracked", "relative_position_index", "position_ids"))


def read_pair(path: Path) -> Pair:
    """Read PATH.json and PATH.npz; formula.py beside them, else our copy of it.

    Raises:
        UserError: one of them is not there or damaged.
    """
    stem = path.with_suffix("") if path.suffix in (".json", ".npz") else path
    files = [stem.with_name(stem.name + ending) for ending in (".json", ".npz")]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is not there: a golden pair is NAME.json and NAME.npz")
    try:
        content = json.loads(files[0].read_text(encoding="utf-8"))
        with np.load(files[1], allow_pickle=False) as opened:
            arrays = dict(opened)
    except (ValueError, OSError) as error:
        raise UserError(f"{stem}: cannot be read: {error}") from error
    shapes = {
        stage: {key: tuple(shape) for key, shape in content[f"stage{stage}_keys"].items()}
        for stage in (1, 2)
        if f"stage{stage}_keys" in content
    }
    kept = ("meta", "stage1_keys", "stage2_keys")
    numbers = {name: value for name, value in content.items() if name not in kept}
    beside = stem.with_name("formula.py")
    made = _load_formula(beside) if beside.is_file() else formula
    return Pair(stem.name, content["meta"], shapes, numbers, arrays, made)


def _load_formula(path: Path) -> Formula:
    spec = importlib.util.spec_from_file_location("golden_formula", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Formula = module.formula
    return found
