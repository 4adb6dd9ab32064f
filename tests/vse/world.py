"""A data set of a few dozen tiny pictures, with captions and a captioning run, written in a blink.

Each picture is a coloured square on a coloured ground; texts name both, so small towers learn it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from data.dense.receipts import append_receipt
from data.dense.schema import CAPTION_SCHEMA
from data.dense.shards import make_receipt, name_shard, write_shard

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (40, 60, 230),
    "yellow": (230, 220, 40),
    "white": (245, 245, 245),
    "black": (10, 10, 10),
}
PLACES = ("left", "right", "top", "bottom")

TINY = {
    "image": {
        "config": {
            "model_type": "vit",
            "image_size": 16,
            "patch_size": 8,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        "px": 16,
    },
    "text": {
        "config": {
            "model_type": "bert",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
        },
        "vocab_size": 300,
        "max_tokens": 64,
    },
    "width": 32,
    "decoder": {"tokens": 4, "depth": 1, "heads": 2},
    "loss": {"align": "infonce"},
    "data": {"items": "images", "flip": 0.0, "crop_min": 0.9, "cache_images": True},
    "optim": {
        "batch_size": 16,
        "steps": 12,
        "lr": 3.0e-3,
        "backbone_lr": 3.0e-3,
        "schedule": "constant",
        "eval_every": 4,
        "log_every": 2,
    },
}


def write_world(folder: Path, *, train: int = 48, val: int = 8, test: int = 8) -> list[str]:
    """Pictures and dataset_world.json in `folder`; returns the file names in order."""
    rng = np.random.default_rng(0)
    names, rows = [], []
    for split, count in (("train", train), ("val", val), ("test", test)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            square, ground = rng.choice(list(COLOURS), size=2, replace=False)
            place = str(rng.choice(PLACES))
            name = f"{split}/{index:03d}.png"
            _paint(str(square), str(ground), place).save(folder / name)
            captions = [f"a {square} square", f"a square at the {place}", f"{square} on {ground}"]
            names.append(name)
            rows.append(
                {
                    "filepath": split,
                    "filename": f"{index:03d}.png",
                    "split": split,
                    "imgid": len(rows),
                    "sentences": [
                        {"raw": caption, "sentid": 10 * len(rows) + number}
                        for number, caption in enumerate(captions)
                    ],
                    "dense": f"The image shows a {square} square at the {place} on {ground}.",
                }
            )
    (folder / "dataset_world.json").write_text(json.dumps({"images": rows}))
    return names


def dense_of(images: Path) -> dict[str, str]:
    """What a perfect captioner would say of each picture of `write_world`."""
    rows = json.loads((images / "dataset_world.json").read_text())["images"]
    return {f"{row['filepath']}/{row['filename']}": row["dense"] for row in rows}


def write_dense(
    folder: Path,
    images: Path,
    texts: Mapping[str, str | None],
    *,
    statuses: Mapping[str, str] | None = None,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """A finished captioning run; an image whose text is None gets an engine_error row.

    `more`: other columns by file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, text in texts.items():
        status = (statuses or {}).get(name, "ok" if text is not None else "engine_error")
        row: dict[str, Any] = dict.fromkeys(CAPTION_SCHEMA.names)
        row |= {"sample_id": name, "file_name": name, "caption": text, "status": status}
        rows.append(
            row | {"run_id": "test", "engine": "scripted"} | dict((more or {}).get(name, {}))
        )
    table = pa.Table.from_pylist(rows, schema=CAPTION_SCHEMA)
    path = folder / name_shard(0, 1)
    write_shard(path, table, metadata={})
    append_receipt(folder, make_receipt(path, index=0))
    run = {
        "complete": True,
        "shards": 1,
        "fingerprint": "f",
        "images": str(images.resolve()),
        "images_relative": None,
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def write_recipe(path: Path, **changes: Mapping[str, Any]) -> Path:
    """The tiny recipe as a YAML file, sections laid over by `changes`."""
    from data.settings.yaml_files import merge

    path.write_text(json.dumps(merge(TINY, changes)))
    return path


def write_project(folder: Path, **changes: Mapping[str, Any]) -> Sequence[str]:
    """world/, dense/world/ and tiny.yaml in `folder`; returns the file names."""
    names = write_world(folder / "world")
    write_dense(folder / "dense/world", folder / "world", dense_of(folder / "world"))
    write_recipe(folder / "tiny.yaml", **changes)
    return names


def _paint(square: str, ground: str, place: str) -> Image.Image:
    pixels = np.empty((16, 16, 3), dtype=np.uint8)
    pixels[:] = COLOURS[ground]
    spots = {"left": (4, 0), "right": (4, 8), "top": (0, 4), "bottom": (8, 4)}
    row, column = spots[place]
    pixels[row : row + 8, column : column + 8] = COLOURS[square]
    return Image.fromarray(pixels)
