"""Public benchmarks with twenty rows, each in the layout in which it is published.

Image and text of an example tell its number: the image by its colour, the text by its words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from vse.evaluation.benchmarks.declaration import SHIPPED, read_benchmark

COUNT = 20
# The second image and the wrong caption of an example.
OTHER, WRONG = 100, 200


def paint(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), (12 * (number % OTHER), 200 * (number // OTHER), 90)).save(path)


def say(number: int, more: str = "") -> str:
    return f"thing {number} on the ground {more}".strip()


def write_published(name: str, folder: Path) -> None:
    """The files of a benchmark below `folder`."""
    _WRITERS[name](folder)


def declare_small(published: str, folder: Path, **changes: Any) -> Path:
    """The benchmark's own declaration, but for its size and its hashes, as a file in `folder`."""
    raw = yaml.safe_load((SHIPPED / f"{published}.yaml").read_text())
    raw |= {"examples": COUNT, "texts": None, "sha256": {}, "order_sha256": None}
    if "first" in raw:
        raw["first"] = COUNT
    raw |= changes
    path = folder / f"{published}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def _lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4))


def _write_karpathy(folder: Path, dataset: str, place: str, file: str) -> None:
    rows = []
    for n in range(COUNT):
        name = file.format(n)
        paint(folder / place / name, n)
        sentences = [
            {"raw": say(n, f"{k}"), "tokens": [], "imgid": n, "sentid": 10 * n + k}
            for k in range(5)
        ]
        row = {"filename": name, "imgid": n, "split": "test", "sentences": sentences}
        rows.append({**row, "sentids": [s["sentid"] for s in sentences]})
        if dataset == "coco":
            rows[-1] |= {"filepath": place, "cocoid": n}
    # Of another split, whose images are not needed.
    rows.append({**rows[0], "filename": "other.jpg", "split": "train", "imgid": 99, "cocoid": 99})
    _json(folder / f"dataset_{dataset}.json", {"images": rows, "dataset": dataset})


def write_coco(folder: Path) -> None:
    _write_karpathy(folder, "coco", "val2014", "COCO_val2014_{:012d}.jpg")


def write_truth(folder: Path) -> None:
    """COCO, and beside it ground truth by which the next image's captions are right, too."""
    write_coco(folder)
    texts = {str(n): [10 * m + k for m in (n, n ^ 1) for k in range(5)] for n in range(COUNT)}
    images = {str(10 * n + k): [n, n ^ 1] for n in range(COUNT) for k in range(5)}
    for name in ("eccv", "cxc"):
        _json(folder / f"eccv_caption/{name}_image_to_caption.json", texts)
        _json(folder / f"eccv_caption/{name}_caption_to_image.json", images)


def _write_flickr(folder: Path) -> None:
    _write_karpathy(folder, "flickr30k", "flickr30k-images", "{}.jpg")


def write_docci(folder: Path) -> None:
    rows = []
    for split in ("train", "test"):
        for n in range(COUNT):
            name = f"{split}_{n:05d}"
            row = {"example_id": name, "split": split, "image_file": f"{name}.jpg"}
            rows.append({**row, "description": say(n, "and much more.")})
            paint(folder / f"images/{name}.jpg", n)
    _lines(folder / "docci_descriptions.jsonlines", rows)


def _write_dci(folder: Path) -> None:
    place = folder / "densely_captioned_images"
    names = [f"{1130 + n}-data.json" for n in range(COUNT)]
    for n, name in enumerate(names):
        row = {"image": f"sa_{n}.jpg", "short_caption": say(n), "extra_caption": "a wall, a tree"}
        more = {"mask_data": {}, "mask_keys": [], "summaries": {"base": ["x"]}, "negatives": {}}
        _json(place / "annotations" / name, row | more)
        paint(place / f"photos/sa_{n}.jpg", n)
    # One that no split names.
    _json(place / "annotations/9-data.json", {"image": "none.jpg"})
    _json(place / "splits.json", {"train": names[5:], "valid": names[:2], "test": names[2:5]})


def _write_iiw(folder: Path) -> None:
    parts = {"DOCCI_Test": range(6), "IIW-400": range(6, 14), "DCI_Test": range(14, COUNT)}
    for part, numbers in parts.items():
        rows = []
        for n in numbers:
            row: dict[str, Any] = {
                "IIW": say(n, "\n\n\nin detail"),
                "metrics/Human Like": "Neutral",
            }
            if part == "DOCCI_Test":
                rows.append({**row, "DOCCI": "short", "image": f"test_{n:05d}"})
                paint(folder / f"docci/test_{n:05d}.jpg", n)
            elif part == "IIW-400":
                rows.append({**row, "IIW-P5B": "of a model", "image/key": f"aar_test_{n:05d}"})
                paint(folder / f"docci_aar/aar_test_{n:05d}.jpg", n)
            else:
                rows.append({**row, "ex_id": f"{n}-data.json", "image": f"sa_{n}.jpg"})
                paint(folder / f"dci/sa_{n}.jpg", n)
        _lines(folder / part / "data.jsonl", rows)


def write_urban(folder: Path) -> None:
    for n in range(COUNT):
        paint(folder / f"Urban1k/image/{n + 1}.jpg", n)
        text = folder / f"Urban1k/caption/{n + 1}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"{say(n, 'in a street')}\nthing 777 of a second line")


def write_sharegpt(folder: Path) -> None:
    rows = []
    for n in range(COUNT + 5):
        talk = [
            {"from": "human", "value": "<image>\nWhat is this photo about?"},
            {"from": "gpt", "value": say(n, "\nThe image captures more.")},
        ]
        rows.append({"id": f"sa_{n}", "image": f"sam/images/sa_{n}.jpg", "conversations": talk})
        # The images of the rest of the file are not needed.
        if n < COUNT:
            paint(folder / rows[-1]["image"], n)
    _json(folder / "share-captioner_coco_lcs_sam_1246k_1107.json", rows)


def _write_sugarcrepe(folder: Path) -> None:
    names = [rows.file for rows in read_benchmark("sugarcrepe").rows]
    numbers = iter(range(COUNT))
    for at, name in enumerate(names):
        # The ids have gaps, as in the published files.
        mine = [next(numbers) for _ in range(3 if at < len(names) - 1 else 2)]
        rows = {}
        for n in mine:
            pair = {"caption": say(n), "negative_caption": say(WRONG + n)}
            rows[str(2 * n)] = {"filename": f"{n:012d}.jpg", **pair}
            paint(folder / f"val2017/{n:012d}.jpg", n)
        _json(folder / name, rows)


def write_winoground(folder: Path) -> None:
    rows = []
    for n in range(COUNT):
        names = [f"ex_{n}_img_{k}" for k in range(2)]
        rows.append(
            {
                "id": n,
                **{f"image_{k}": name for k, name in enumerate(names)},
                **{f"caption_{k}": say(n + OTHER * k) for k in range(2)},
                "tag": "Adjective",
                "secondary_tag": "",
                "num_main_preds": 1,
                "collapsed_tag": "Object",
            }
        )
        for k, name in enumerate(names):
            paint(folder / f"data/images/{name}.png", n + OTHER * k)
    _lines(folder / "data/examples.jsonl", rows)


def _write_xm3600(folder: Path) -> None:
    rows = []
    for n in range(COUNT):
        row: dict[str, Any] = {"image/key": f"{n:016x}", "image/locale": "en"}
        for language in read_benchmark("xm3600").languages:
            texts = [say(n, f"{language} {k}") for k in range(2)]
            row[language] = {"caption": texts, "caption/tokenized": texts}
        rows.append(row)
        paint(folder / f"images/{n:016x}.jpg", n)
    _lines(folder / "captions.jsonl", rows)


_WRITERS: Mapping[str, Callable[[Path], None]] = {
    "coco": write_coco,
    "eccv-caption": write_truth,
    "cxc": write_truth,
    "flickr30k": _write_flickr,
    "docci": write_docci,
    "dci": _write_dci,
    "iiw": _write_iiw,
    "urban1k": write_urban,
    "sharegpt4v-1k": write_sharegpt,
    "sharegpt4v-10k": write_sharegpt,
    "sugarcrepe": _write_sugarcrepe,
    "winoground": write_winoground,
    "xm3600": _write_xm3600,
}


class NumberEncoder:
    """Embeds an example by its number: perfectly, or images by other vectors than texts."""

    name, px = "numbers", 8

    def __init__(self, *, perfect: bool = True, weights: str = "0" * 64) -> None:
        self.images = np.random.default_rng(0).normal(size=(500, 64))
        self.texts = self.images if perfect else np.random.default_rng(1).normal(size=(500, 64))
        self.weights = weights
        self.seen: list[int] = []

    def embed_files(self, paths: Sequence[Path], *, report: Any) -> tuple[np.ndarray, dict]:
        numbers, broken = [], {}
        for index, path in enumerate(paths):
            try:
                red, green, _ = Image.open(path).convert("RGB").getpixel((3, 3))
                numbers.append(round(red / 12) + OTHER * round(green / 200))
            except OSError as error:
                broken[index] = str(error)
                numbers.append(0)
        return self._take(self.images, numbers), broken

    def embed_captions(self, captions: Sequence[str], *, report: Any) -> np.ndarray:
        self.seen.append(len(captions))
        return self._take(self.texts, [int(text.split()[1]) for text in captions])

    def describe(self) -> dict[str, Any]:
        return {"px": self.px, "resize": "none", "weights_sha256": self.weights}

    def _take(self, table: np.ndarray, numbers: list[int]) -> np.ndarray:
        rows = table[numbers]
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
