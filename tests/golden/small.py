"""The pairs that come with the project: all numbers, and of each array every so many-th channel.

`python -m tests.golden.small PATH...` writes NAME.json and NAME.npz beside this file from whole
pairs. The images are not kept: they are the first draws of the pair's seed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.check import INPUTS
from tests.golden.formula import formula
from tests.golden.pair import Pair, read_pair

HERE = Path(__file__).parent
STRIDE = 64


def small_names() -> list[str]:
    """The pairs that lie here."""
    return sorted(path.stem for path in HERE.glob("*.npz"))


def read_small(name: str) -> Pair:
    """One of the pairs that lie here."""
    content = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    meta = content["meta"]
    with np.load(HERE / f"{name}.npz", allow_pickle=False) as opened:
        arrays = {"images": draw_images(meta), **opened}
    whole = {key: tuple(shape) for key, shape in content["keys"].items()}
    towers = {k: s for k, s in whole.items() if not k.startswith("prompt_learner.")}
    numbers = content["losses"] | {
        group: {key: value for key, value in zip(whole, values, strict=False) if value is not None}
        for group, values in content["groups"].items()
    }
    return Pair(name, meta, {1: towers, 2: whole}, numbers, arrays, formula, stride=STRIDE)


def write_small(pair: Pair, folder: Path) -> None:
    """Keep what is needed to compare with the pair, in a few kilobytes."""
    assert np.array_equal(draw_images(pair.meta), pair.arrays["images"])
    # The teacher has the names and values of the student.
    keys = {k: list(s) for k, s in pair.shapes[2].items() if not k.startswith("long_txt_enc.")}
    groups = {
        name: [_short(value[key]) if key in value else None for key in keys]
        for name, value in pair.numbers.items()
        if isinstance(value, dict)
    }
    losses = {k: _short(v) for k, v in pair.numbers.items() if not isinstance(v, dict)}
    content = {"meta": dict(pair.meta), "losses": losses, "keys": keys, "groups": groups}
    lines = [f"{json.dumps(key)}: {_line(value)}" for key, value in content.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (folder / f"{pair.name}.json").write_text(text, encoding="utf-8")
    arrays: dict[str, Any] = {
        name: value if name in INPUTS else value[..., ::STRIDE]
        for name, value in pair.arrays.items()
        if name != "images"
    }
    np.savez_compressed(folder / f"{pair.name}.npz", **arrays)


def draw_images(meta: Any) -> np.ndarray:
    """The images of a golden run, (B, 3, px, px) float32."""
    shape = (meta["batch"], 3, meta["px"], meta["px"])
    return np.random.default_rng(meta["seed"]).standard_normal(shape).astype(np.float32)


def _short(value: float) -> float:
    return float(f"{value:.8g}")


def _line(value: Any) -> str:
    """JSON with a line for each entry of a mapping, and lists kept on one."""
    if not isinstance(value, dict):
        return json.dumps(value)
    inner = [f"  {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in value.items()]
    return "{\n" + ",\n".join(inner) + "\n}"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write_small(read_pair(Path(argument)), HERE)
