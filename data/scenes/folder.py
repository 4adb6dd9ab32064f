"""A folder of scenes on disk: photos, human-like captions in Karpathy's format, the ground truth.

scenes/
  train/000000.jpg ...  val/ ...  test/ ...
  dataset_scenes.json   splits and sparse captions, as `dataset_coco.json` has them
  facts.jsonl           the ground truth, one line an image
  figures.json          what the sparse captions state and leave out, and the oracle's R@1
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from data.files.atomic import replace_whole, write_json
from data.scenes.correlation import measure
from data.scenes.dense import Audit, audit
from data.scenes.oracle import compute_oracle
from data.scenes.render import render
from data.scenes.sparse import Mention, Told, write_captions
from data.scenes.world import Scene, Thing, sample_scene

DATASET_FILE = "dataset_scenes.json"
FACTS_FILE = "facts.jsonl"
FIGURES_FILE = "figures.json"
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Truth:
    """The ground truth of one image: its scene, and what each of its captions states."""

    file_name: str
    scene: Scene
    captions: tuple[str, ...]
    told: tuple[Told, ...]
    facts_told: tuple[frozenset, ...]


def write_scenes(
    directory: Path,
    *,
    counts: Mapping[str, int],
    seed: int,
    correlation: float = 0.0,
    processes: int = 2,
) -> dict[str, Any]:
    """Write `counts[split]` scenes per split to `directory` and return its figures.

    A folder that already contains the same scenes is left unchanged, or finished if writing it was
    interrupted. UserError if it has others.
    """
    settings: dict[str, Any] = {"seed": seed, "counts": dict(counts)}
    if correlation:
        settings["correlation"] = correlation
    done = directory / FIGURES_FILE
    if done.exists():
        figures = json.loads(done.read_text())
        if figures["settings"] == settings:
            return figures
    truths = [
        make_truth(seed, split, index, correlation=correlation)
        for split in counts
        for index in range(counts[split])
    ]
    _refuse_leaks(truths)
    marker, facts = directory / FACTS_FILE, "".join(map(_write_truth, truths))
    # Images of other settings would be left among those of these.
    begun = not done.exists() and marker.exists() and marker.read_text() == facts
    if not begun and directory.exists() and any(directory.iterdir()):
        raise UserError(
            f"{directory} contains other files: use another --out, or remove the folder first"
        )
    directory.mkdir(parents=True, exist_ok=True)
    # The ground truth first: it marks the folder as ours if writing the images is interrupted.
    with replace_whole(marker) as temporary:
        temporary.write_text(facts)
    for split in counts:
        (directory / split).mkdir(exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(partial(_write_picture, directory, seed), truths, chunksize=50))
    write_json(directory / DATASET_FILE, _karpathy(truths))
    figures = {"settings": settings, **compute_figures(truths)}
    write_json(done, figures)
    return figures


def make_truth(seed: int, split: str, index: int, *, correlation: float = 0.0) -> Truth:
    """Scene `index` of `split` with its five captions."""
    scene = sample_scene(seed, split, index, correlation=correlation)
    captions, told, facts = zip(*write_captions(scene, seed=seed), strict=True)
    return Truth(f"{split}/{index:06d}.jpg", scene, captions, told, facts)


def read_truths(directory: Path) -> Iterator[Truth]:
    """The ground truth of a folder of scenes, in its order."""
    path = directory / FACTS_FILE
    if not path.exists():
        raise UserError(f"{path} is missing: {directory} is not a folder of scenes (d2s scenes)")
    for line in path.read_text().splitlines():
        yield _read_truth(json.loads(line))


def compute_figures(truths: list[Truth]) -> dict[str, Any]:
    """Facts per image, per caption and in five captions together, and the oracle on "test"."""
    facts = np.array([len(truth.scene.facts()) for truth in truths])
    each = [len(told) for truth in truths for told in truth.facts_told]
    together = np.array([len(frozenset.union(*truth.facts_told)) for truth in truths])
    words = [len(caption.split()) for truth in truths for caption in truth.captions]
    test = [truth for truth in truths if truth.scene.split == "test"]
    figures: dict[str, Any] = {
        "facts_per_image": float(facts.mean()),
        "facts_per_caption": float(np.mean(each)),
        "facts_of_five_captions": float(together.mean()),
        "share_untold_by_five": float(1 - together.sum() / facts.sum()),
        "words_per_caption": float(np.mean(words)),
        "bits": measure_bits([truth.scene for truth in truths]),
    }
    if test:
        oracle = compute_oracle([t.scene for t in test], [t.told for t in test])
        figures["oracle"] = asdict(oracle)
    return figures


def measure_bits(scenes: Sequence[Scene]) -> dict[str, float]:
    """Mutual information between facts in bits, from the ground truth."""
    things = [(scene, thing) for scene in scenes for thing in scene.things]
    pairs = [(a.shape, b.shape) for scene in scenes for a, b in pairwise(scene.things)]
    return {
        "texture_from_shape": measure((thing.shape, thing.texture) for _, thing in things),
        "colour_from_ground": measure((scene.ground, thing.colour) for scene, thing in things),
        "shape_from_ground": measure((scene.ground, thing.shape) for scene, thing in things),
        "shape_from_neighbour": measure(pairs),
    }


def _write_picture(directory: Path, seed: int, truth: Truth) -> None:
    render(truth.scene, seed=seed).save(directory / truth.file_name, quality=_JPEG_QUALITY)


def _refuse_leaks(truths: list[Truth]) -> None:
    """No scene may be in two splits: a model could then have memorized a test image."""
    seen: dict[frozenset, str] = {}
    for truth in truths:
        split = truth.scene.split
        if seen.setdefault(truth.scene.facts(), split) != split:
            raise UserError(f"scene {truth.file_name} is also in another split: change --seed")


def _karpathy(truths: list[Truth]) -> dict[str, Any]:
    images = []
    for number, truth in enumerate(truths):
        first = number * len(truth.captions)
        sentences = [
            {
                "tokens": text.lower().rstrip(".").split(),
                "raw": text,
                "imgid": number,
                "sentid": first + k,
            }
            for k, text in enumerate(truth.captions)
        ]
        images.append(
            {
                "filepath": truth.scene.split,
                "filename": truth.file_name.split("/")[-1],
                "split": truth.scene.split,
                "imgid": number,
                "sentids": [sentence["sentid"] for sentence in sentences],
                "sentences": sentences,
            }
        )
    return {"dataset": "scenes", "images": images}


def _write_truth(truth: Truth) -> str:
    line = {
        "file_name": truth.file_name,
        "scene": asdict(truth.scene),
        "captions": truth.captions,
        "told": [asdict(told) for told in truth.told],
        "facts_told": [sorted(facts) for facts in truth.facts_told],
    }
    return json.dumps(line) + "\n"


def _read_truth(line: dict) -> Truth:
    scene = line["scene"]
    things = tuple(Thing(**thing) for thing in scene["things"])
    told = tuple(
        Told(tuple(Mention(**m) for m in one["mentions"]), one["relation"], one["ground"])
        for one in line["told"]
    )
    return Truth(
        file_name=line["file_name"],
        scene=Scene(scene["split"], scene["index"], scene["ground"], things),
        captions=tuple(line["captions"]),
        told=told,
        facts_told=tuple(frozenset(map(tuple, facts)) for facts in line["facts_told"]),
    )


def audit_captions(captions: Mapping[str, str], truths: Iterable[Truth]) -> Audit:
    """Check `captions` (file_name -> dense text) against the ground truth; sums over the images.

    UserError if an image of `truths` has no caption: a share over fewer images would look too good.
    """
    total = Audit(0, 0, 0, 0, 0, 0)
    for truth in truths:
        if truth.file_name not in captions:
            raise UserError(f"{truth.file_name} has no dense text: caption the whole folder first")
        total += audit(captions[truth.file_name], truth.scene)
    return total
