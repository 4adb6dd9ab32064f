"""Measuring a model on a benchmark: embedding in chunks, with the measure of the set's own code."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from vse.evaluation.benchmarks.opening import Opened
from vse.evaluation.benchmarks.rows import Example
from vse.evaluation.folds import measure_folds
from vse.evaluation.positives import Ids, measure_cxc, measure_eccv
from vse.evaluation.retrieval import NotFiniteError, rank, recalls
from vse.evaluation.split import DualEncoder, round_figures

FORMAT = 1
# Number of texts whose tokens are in memory at a time.
CHUNK = 4096
Report = Callable[[str, int, int], None]
_Figures = dict[str, Any]
# Keys of a run that may differ between two measurements of the same model.
_PROGRESS = ("finished", "step", "best_step")
MAIN = {
    "recall": "r1",
    "eccv": "map_at_r",
    "cxc": "r1",
    "pairs": "accuracy",
    "winoground": "group",
}


@dataclass
class Embeddings:
    """The last embeddings, shared by benchmarks with the same images and texts.

    images (N, D) in the order of `rows`, which maps an image's path to its row; embedded (M, D).
    """

    rows: Mapping[Path, int] = field(default_factory=dict)
    images: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    texts: tuple[str, ...] = ()
    embedded: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def name_inputs(opened: Opened, about: Mapping[str, Any]) -> str:
    """A hash of everything that affects the figures: model, declaration, files, limit.

    `about` is the result of the encoder's `describe`.
    """
    parts = [
        {key: about[key] for key in sorted(about) if key not in _PROGRESS},
        asdict(opened.benchmark),
        dict(opened.files),
        opened.order_sha256,
        opened.limit,
        FORMAT,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def measure_benchmark(
    encoder: DualEncoder,
    opened: Opened,
    *,
    last: Embeddings | None = None,
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """The results as JSON; docs/evaluation.md lists the keys.

    Args:
        last: embeddings of the benchmark before, by the same model; replaced by this one's.

    Raises:
        UserError: an image cannot be read, embeddings are not finite, or the ground truth is for
            other captions.
    """
    began = time.monotonic()
    benchmark, examples = opened.benchmark, opened.examples
    last = last if last is not None else Embeddings()
    about = encoder.describe()
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    measured: dict[str, _Figures] = {}
    try:
        _embed_images(encoder, opened, last, report)
        for number, (name, mine) in enumerate(groups.items(), start=1):
            what = "texts" if len(groups) == 1 else f"texts {number}/{len(groups)}"
            _embed_texts(encoder, mine, last, partial(report, what))
            measured[name] = _MEASURES[benchmark.metric](opened, mine, last)
    except NotFiniteError as error:
        raise UserError(f"{encoder.name} cannot be measured: {error}; use other weights") from error
    several = list(measured) != [""]
    scores = _summarise(measured) if several else measured[""]
    return {
        "format": FORMAT,
        "benchmark": benchmark.name,
        "metric": benchmark.metric,
        "model": encoder.name,
        **about,
        "partial": opened.limit is not None,
        "limit": opened.limit,
        "examples": len(examples),
        "images": len(last.rows),
        "texts": sum(len(example.texts) for example in examples),
        "text_cut": benchmark.text_cut,
        "revision": opened.revision,
        "files": dict(opened.files),
        "order_sha256": opened.order_sha256,
        "inputs_sha256": name_inputs(opened, about),
        "main": MAIN[benchmark.metric],
        "scores": round_figures(scores),
        "groups": round_figures(measured) if several else {},
        "seconds": round(time.monotonic() - began, 3),
    }


def _embed_images(encoder: DualEncoder, opened: Opened, last: Embeddings, report: Report) -> None:
    places = dict.fromkeys(place for example in opened.examples for place in example.images)
    paths = [opened.folder / place for place in places]
    if paths == list(last.rows):
        return
    found, broken = encoder.embed_files(paths, report=partial(report, "images"))
    if broken:
        index, reason = next(iter(broken.items()))
        raise UserError(
            f"{len(broken):,} images of {opened.benchmark.name} cannot be read, first "
            f"{paths[index]} ({reason}): results without them would not be comparable"
        )
    last.images, last.texts = _require_finite(found), ()
    last.rows = {path: row for row, path in enumerate(paths)}


def _embed_texts(
    encoder: DualEncoder,
    examples: Sequence[Example],
    last: Embeddings,
    report: Callable[[int, int], None],
) -> None:
    """Embed all texts into one array, a chunk at a time."""
    texts = tuple(text for example in examples for text in example.texts)
    if texts == last.texts:
        return
    table = np.empty((len(texts), last.images.shape[1]), np.float32)
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]

        def told(done: int, total: int, start: int = start) -> None:
            report(start + done, len(texts))

        table[start : start + len(chunk)] = encoder.embed_captions(chunk, report=told)
    last.texts, last.embedded = texts, _require_finite(table)


def _require_finite(table: np.ndarray) -> np.ndarray:
    if not (np.isfinite(table.min()) and np.isfinite(table.max())):
        raise NotFiniteError("its embeddings contain NaN or infinity")
    return table


def _measure_recall(opened: Opened, examples: Sequence[Example], last: Embeddings) -> _Figures:
    """R@K in both directions; all texts of an image, and each text's image, are correct."""
    images, image_of = _gather_images(opened, examples, last)
    found: _Figures = dict(recalls(rank(images, last.embedded, image_of)))
    found["r1"] = (found["i2t_r1"] + found["t2i_r1"]) / 2
    if opened.benchmark.folds is not None and opened.limit is None:
        folds = measure_folds(images, last.embedded, image_of, count=opened.benchmark.folds)
        found["folds"] = {key: folds[key] for key in ("count", "images", "mean", "deviation")}
    return found


def _gather_images(
    opened: Opened, examples: Sequence[Example], last: Embeddings
) -> tuple[np.ndarray, np.ndarray]:
    """The images of these examples (N, D), each once, and the row of each text's image (M,)."""
    mine = {place: row for row, place in enumerate(dict.fromkeys(i.images[0] for i in examples))}
    image_of = [mine[example.images[0]] for example in examples for _ in example.texts]
    return last.images[[last.rows[opened.folder / place] for place in mine]], np.array(image_of)


def _measure_truth(opened: Opened, examples: Sequence[Example], last: Embeddings) -> _Figures:
    """ECCV Caption and CxC: several correct answers per query, by id."""
    assert opened.truth is not None
    images, _ = _gather_images(opened, examples, last)
    ids = Ids([str(i.image_id) for i in examples], [one for i in examples for one in i.text_ids])
    measures = {"eccv": measure_eccv, "cxc": measure_cxc}
    found = None
    if len(ids.texts) == len(last.texts):
        found = measures[opened.benchmark.metric](images, last.embedded, ids, opened.truth)
    if found is None or not (found["complete"] or opened.limit is not None):
        raise UserError(
            f"the ground truth of {opened.benchmark.name} refers to images or captions that "
            f"{opened.benchmark.captions} does not have: use the file with COCO's ids"
        )
    key = "map_at_r" if opened.benchmark.metric == "eccv" else "r1"
    return {**found, key: (found[f"i2t_{key}"] + found[f"t2i_{key}"]) / 2}


def _measure_pairs(opened: Opened, examples: Sequence[Example], last: Embeddings) -> _Figures:
    """Whether an image scores higher with its caption than with the wrong one; a tie is wrong."""
    scores = _score(opened, examples, last)
    right = scores[:, 0, 0] > scores[:, 0, 1]
    return {"accuracy": 100.0 * float(right.mean()), "pairs": len(right)}


def _measure_winoground(opened: Opened, examples: Sequence[Example], last: Embeddings) -> _Figures:
    """Two images, two captions: text, image and group score; a tie is wrong."""
    scores = _score(opened, examples, last)
    pairs = scores[:, [0, 1], [0, 1]]
    text = (pairs > scores[:, [0, 1], [1, 0]]).all(axis=1)
    image = (pairs > scores[:, [1, 0], [0, 1]]).all(axis=1)
    shares = {"text": text, "image": image, "group": text & image}
    return {name: 100.0 * float(right.mean()) for name, right in shares.items()}


def _score(opened: Opened, examples: Sequence[Example], last: Embeddings) -> np.ndarray:
    """Cosines of each example's images with its texts, (examples, images, texts)."""
    rows = [[last.rows[opened.folder / place] for place in example.images] for example in examples]
    images = last.images[rows]
    texts = last.embedded.reshape(len(examples), -1, last.embedded.shape[1])
    scores: np.ndarray = np.einsum("nid,njd->nij", images, texts)
    return scores


def _summarise(groups: Mapping[str, _Figures]) -> _Figures:
    """The mean over languages or categories; for pairs, also the accuracy over all of them."""
    first = next(iter(groups.values()))
    names = [name for name in first if isinstance(first[name], float) and "rank" not in name]
    found = {name: float(np.mean([one[name] for one in groups.values()])) for name in names}
    if "pairs" in first:
        count = sum(one["pairs"] for one in groups.values())
        right = sum(one["accuracy"] * one["pairs"] for one in groups.values())
        found |= {"accuracy_of_all": right / count, "pairs": count}
    return found


_MEASURES: Mapping[str, Callable[[Opened, Sequence[Example], Embeddings], _Figures]] = {
    "recall": _measure_recall,
    "eccv": _measure_truth,
    "cxc": _measure_truth,
    "pairs": _measure_pairs,
    "winoground": _measure_winoground,
}
