"""A trained model on one split of a data set: `d2s evaluate` without the printing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import write_json
from data.captions import find_captions, read_captions
from data.errors import UserError
from vse.checkpoint import RunFolder
from vse.corpus import Corpus, Sample, build_corpus
from vse.embedder import Embedder
from vse.evaluation import Evaluation, evaluate
from vse.pixels import ImageList
from vse.retrieval import NotFiniteError


@dataclass(frozen=True)
class SplitResult:
    """An evaluation with the samples it is about; text m belongs to samples[image_of[m]]."""

    split: str
    samples: tuple[Sample, ...]
    captions: tuple[str, ...]
    evaluation: Evaluation
    notes: tuple[str, ...]

    def summary(self, embedder: Embedder, *, model: Path) -> dict[str, Any]:
        """Plain JSON: recalls, counts, the true input size, and how far training was."""
        return {
            "model": str(model),
            "stage": embedder.config["stage"],
            "split": self.split,
            "px": embedder.px,
            **how_far(model),
            "images": len(self.samples),
            "captions": len(self.captions),
            **{name: round(value, 4) for name, value in self.evaluation.metrics.items()},
            "left_out": list(self.notes),
        }


def how_far(model: Path) -> dict[str, Any]:
    """Whether the run is finished, its newest saved step and that of the model measured.

    All None where the state was deleted.
    """
    done = RunFolder(model).read_progress()
    return {
        "finished": None if done is None else done.finished,
        "step": None if done is None else done.step,
        "best_step": None if done is None else done.best_step,
    }


def open_corpus(
    embedder: Embedder,
    *,
    split: str,
    images: Path | None = None,
    captions: Path | None = None,
    limit: int | None = None,
) -> tuple[Corpus, Path, Path]:
    """The data a model is measured on: as given, else as its training recorded it.

    Returns the corpus, the images folder and the caption source.

    Raises:
        UserError: neither there nor given.
    """
    recorded, settings = embedder.config["data"], embedder.config["recipe"]["data"]
    given = images
    images = images if images is not None else _place(recorded, "images", "--images")
    if not images.is_dir():
        raise UserError(f"the images folder {images} does not exist: name it with --images")
    if captions is None:
        # Other images than those of the training have captions of their own.
        captions = (
            find_captions(images)
            if given is not None
            else _place(recorded, "captions", "--captions")
        )
    corpus = build_corpus(
        images=images,
        source=read_captions(captions),
        dense=None,
        max_missing=settings["max_missing"],
        captions_per_image=settings.get("captions_per_image"),
        limit=limit,
        splits=(split,),
    )
    return corpus, images, captions


def evaluate_split(embedder: Embedder, corpus: Corpus, *, split: str) -> SplitResult:
    """Encode every image of the split once and all of its captions, and rank both ways.

    Raises:
        UserError: the split is empty or an image cannot be read.
    """
    samples = corpus.splits[split]
    if not samples:
        raise UserError(f"no image of the {split} split can be used: {'; '.join(corpus.notes)}")
    texts = [caption for sample in samples for caption in sample.captions]
    try:
        evaluation = evaluate(
            embedder.model,
            pixels=ImageList([sample.path for sample in samples], px=embedder.px),
            texts=embedder.tokenize(texts),
            image_of=_image_of(samples),
            pad_id=embedder.tokenizer.pad_id,
        )
    except NotFiniteError as error:
        raise UserError(f"the model cannot be measured: {error}; train it again") from error
    return SplitResult(split, samples, tuple(texts), evaluation, corpus.notes)


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Write the summary as readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, summary)


def _image_of(samples: Sequence[Sample]) -> np.ndarray:
    return np.repeat(np.arange(len(samples)), [len(sample.captions) for sample in samples])


def _place(recorded: dict[str, Any], what: str, option: str) -> Path:
    places = [recorded.get(what), recorded.get(f"{what}_relative")]
    for place in places:
        if place and Path(place).exists():
            return Path(place)
    raise UserError(f"the {what} of the training are not at {places[0]} any more: use {option}")
