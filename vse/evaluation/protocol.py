"""What is measured in addition to the plain recalls of a split: folds, ECCV Caption, CxC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.environment import name_install
from data.errors import UserError
from vse.evaluation.folds import COCO_FOLDS, COCO_IMAGES, measure_folds
from vse.evaluation.ground_truth import GroundTruth, find_package, is_coco, read_ground_truth
from vse.evaluation.positives import Ids, measure_cxc, measure_eccv
from vse.evaluation.retrieval import Evaluation
from vse.samples.corpus import Sample

_MEASURES = {"eccv": measure_eccv, "cxc": measure_cxc}


@dataclass(frozen=True)
class Protocol:
    """The number of `folds`, if any; ground truth by name; notes for the reader."""

    folds: int | None = None
    truths: Mapping[str, GroundTruth] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose_protocol(
    samples: Sequence[Sample],
    *,
    asked: int | None = None,
    folds: int | None = None,
    truth: Path | None = None,
) -> Protocol:
    """The requested protocol, else the usual one for this split.

    Args:
        asked: number of images of the split, usable or not; None if all are available.
        folds: None splits COCO's 5,000 images into five folds and no other data set; 0 never
            splits.
        truth: a folder of ground truth; None uses that of the installed package if the split is
            COCO's.

    Raises:
        UserError: fewer images than folds, no such ground truth, or it has none of these queries.
    """
    count, notes = folds, []
    if folds is None and COCO_IMAGES in (len(samples), asked):
        count = COCO_FOLDS
        if len(samples) != COCO_IMAGES:
            count = None
            notes.append(
                f"not split into folds, because only {len(samples):,} of {COCO_IMAGES:,} images "
                f"are here: --folds {COCO_FOLDS} splits these"
            )
    if count:
        _check_folds(count, len(samples))
    truths: Mapping[str, GroundTruth] = {}
    if truth is not None:
        truths = _read_asked(truth, samples, name_ids(samples))
    elif _have_ids(samples):
        package = find_package()
        if package is None and len(samples) == COCO_IMAGES:
            notes.append(
                "if this is COCO, ECCV Caption and CxC need their ground truth: "
                + name_install("eccv")
            )
        image_of = {text: str(one.image_id) for one in samples for text in one.caption_ids}
        if package is not None and is_coco(package, image_of):
            truths = read_ground_truth(package)
    return Protocol(count or None, truths, tuple(notes))


def name_ids(samples: Sequence[Sample]) -> Ids:
    """The source's ids where it has them and no two are equal, else file names and their captions'
    numbers from 0: `folder/a.jpg`, `folder/a.jpg#0`."""
    images = [sample.image_id for sample in samples]
    if None in images or len(set(images)) < len(images):
        images = [sample.name for sample in samples]
    texts = [caption for sample in samples for caption in sample.caption_ids]
    if not _have_ids(samples) or len(set(texts)) < len(texts):
        texts = [
            f"{name}#{number}"
            for name, sample in zip(images, samples, strict=True)
            for number in range(len(sample.captions))
        ]
    return Ids([str(name) for name in images], texts)


def measure_further(
    evaluation: Evaluation, samples: Sequence[Sample], protocol: Protocol, *, px: int
) -> dict[str, Any]:
    """`folds`, `eccv_caption` and `cxc` of the results, each None where it was not measured.

    Raises:
        UserError: images could not be read, and fewer than folds are left.
    """
    images, texts = evaluation.images, evaluation.texts
    found: dict[str, Any] = {"folds": None, "eccv_caption": None, "cxc": None}
    if protocol.folds:
        _check_folds(protocol.folds, len(images))
        folds = measure_folds(images, texts, evaluation.image_of, count=protocol.folds)
        found["folds"] = {"px": px, **folds}
    for name, truth in protocol.truths.items():
        measured = _MEASURES[name](images, texts, name_ids(samples), truth)
        if measured is not None:
            found["eccv_caption" if name == "eccv" else name] = {"px": px, **measured}
    return found


def _check_folds(count: int, images: int) -> None:
    if not 2 <= count <= images:
        raise UserError(
            f"{images} images cannot be split into {count} folds: --folds can be 2 to {images} "
            "here, or 0 for none"
        )


def _read_asked(folder: Path, samples: Sequence[Sample], ids: Ids) -> dict[str, GroundTruth]:
    if not _have_ids(samples):
        raise UserError(
            "the captions have no ids, which the ground truth refers to: use Karpathy's JSON with "
            "sentid, or COCO's annotations, with --captions"
        )
    truths = read_ground_truth(folder)
    images, texts = set(ids.images), set(ids.texts)
    for name, truth in truths.items():
        if images.isdisjoint(truth.texts) or texts.isdisjoint(truth.images):
            raise UserError(
                f"{folder} belongs to other images or captions: no query of its {name} is in the "
                f"split (wanted {next(iter(truth.texts), 'none')}, found {ids.images[0]})"
            )
    return truths


def _have_ids(samples: Sequence[Sample]) -> bool:
    return all(s.image_id and len(s.caption_ids) == len(s.captions) for s in samples)
