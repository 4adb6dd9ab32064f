"""Evaluation of a model on one split of a data set: `d2s evaluate` without the printing."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from data.sparse.captions import find_captions, find_captions_if_any, read_captions
from data.sparse.source import CaptionSource
from vse.evaluation.positives import Ids
from vse.evaluation.protocol import Protocol, measure_further, name_ids
from vse.evaluation.ranks_file import write_ranks
from vse.evaluation.retrieval import Evaluation, NotFiniteError, measure
from vse.recipes import DataConfig, build
from vse.recipes.files import read_recipe, resolve
from vse.runs.config import find_place, read_left_out, selection_split
from vse.samples.corpus import BROKEN, Corpus, CorpusSettings, LeftOut, Sample, build_corpus
from vse.samples.dense import DenseText, make_captions, read_if_whole

# Version of the results' JSON (docs/evaluation.md); existing names keep their meaning.
FORMAT = 1
Report = Callable[[int, int], None]


class DualEncoder(typing.Protocol):
    """A model to evaluate, which preprocesses images and texts itself."""

    name: str  # as the user calls it
    px: int  # side of the square that its image tower receives

    def embed_files(
        self, paths: Sequence[Path], *, report: Report
    ) -> tuple[np.ndarray, Mapping[int, str]]:
        """(N, D) float32, normalized, and the errors of broken images by index."""
        ...

    def embed_captions(self, captions: Sequence[str], *, report: Report) -> np.ndarray:
        """(M, D) float32, normalized; texts beyond the maximum length are truncated."""
        ...

    def describe(self) -> dict[str, Any]:
        """Its description in the results: docs/evaluation.md."""
        ...


@dataclass(frozen=True)
class SplitResult:
    """An evaluation with its corpus; text m belongs to samples[image_of[m]]."""

    corpus: Corpus
    split: str
    captions: tuple[str, ...]
    evaluation: Evaluation

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples whose image could be read."""
        return self.corpus.splits[self.split]

    @property
    def ids(self) -> Ids:
        """The ids of images and captions."""
        return name_ids(self.samples)

    def summary(
        self,
        encoder: DualEncoder,
        *,
        protocol: Protocol | None = None,
        trained_on: int | None = None,
        limit: int | None = None,
    ) -> dict[str, Any]:
        """Plain JSON: recalls, counts, the actual input size, and the progress of training.

        With `protocol`, also folds, ECCV Caption and CxC.

        Args:
            trained_on: number of these images that the model was trained on, None if unknown.
            limit: the number of images that was asked for, None for the whole split.
        """
        protocol, about = protocol or Protocol(), encoder.describe()
        further = measure_further(self.evaluation, self.samples, protocol, px=encoder.px)
        return {
            "format": FORMAT,
            "model": encoder.name,
            "dataset": self.corpus.dataset,
            "split": self.split,
            **about,
            "images": len(self.samples),
            "images_left_out": self.corpus.asked[self.split] - len(self.samples),
            "images_trained_on": trained_on,
            "limit": limit,
            "captions": len(self.captions),
            **round_figures(self.evaluation.metrics),
            **round_figures(further),
            "widths": round_figures(self._measure_widths(about.get("widths") or ())),
            "left_out": list(self.corpus.notes),
        }

    def _measure_widths(self, widths: Sequence[int]) -> list[dict[str, Any]] | None:
        """The recalls with only the first values of the embeddings."""
        found = []
        for width in widths:
            images, texts = (
                side[:, :width] / np.linalg.norm(side[:, :width], axis=1, keepdims=True)
                for side in (self.evaluation.images, self.evaluation.texts)
            )
            metrics = measure(images, texts, self.evaluation.image_of).metrics
            found.append({"width": width, **metrics})
        return found or None

    def write_ranks(self, path: Path, summary: Mapping[str, Any]) -> None:
        """Write the rank of every query and its top hits; see `vse.evaluation.ranks_file`."""
        about = {key: str(summary[key]) for key in ("model", "split", "px")}
        write_ranks(
            path,
            self.evaluation.ranks,
            ids=self.ids,
            names=[sample.name for sample in self.samples],
            captions=self.captions,
            about=about | {"images": str(len(self.samples)), "captions": str(len(self.captions))},
        )


def round_figures(value: Any) -> Any:
    """Numbers rounded to four decimals, at any depth."""
    if isinstance(value, dict):
        return {name: round_figures(part) for name, part in value.items()}
    if isinstance(value, list):
        return [round_figures(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


def describe_selection(config: Mapping[str, Any], *, split: str, own_data: bool) -> list[str]:
    """A warning if the results may be optimistic because the weights were selected on this split.

    Args:
        config: config.json of the run.
        own_data: whether the data recorded by the run is measured, not data specified now.
    """
    if selection_split(config) != split:
        return []
    picked = "the weights were selected by their rSum on"
    if own_data:
        return [f"{picked} this split ({split}): these figures are optimistic"]
    if config["data"].get("images") is None:
        return [
            (f"{picked} the {split} split of their training: results on that split are optimistic")
        ]
    return []


def open_corpus(
    config: Mapping[str, Any] | None,
    *,
    split: str,
    images: Path | None = None,
    captions: Path | None = None,
    limit: int | None = None,
) -> tuple[Corpus, Path, Path]:
    """The data to measure on: as specified, else as recorded in training.

    Returns the corpus, the image folder and the caption source.

    Args:
        config: config.json of the run that sets the data and the captions per image; without it,
            the number of captions is the usual one (the recipe `paper`).

    Raises:
        UserError: the data was neither specified nor recorded.
    """
    recorded: Mapping[str, Any] = config["data"] if config is not None else {}
    settings = config["recipe"]["data"] if config is not None else _usual_settings()
    given = images
    images = images if images is not None else _place(recorded, "images", "--images")
    if not images.is_dir():
        raise UserError(f"the image folder {images} does not exist: specify it with --images")
    source = _read_source(captions, given, recorded, settings)
    wanted = CorpusSettings(
        max_missing=settings["max_missing"],
        captions_per_image=settings.get("captions_per_image"),
        limit=limit,
        splits=(split,),
        hint="specify captions of existing images with --captions",
    )
    captioned = None if given is not None else _recorded_dense(recorded)
    corpus = build_corpus(images, source, wanted, captioned=captioned)
    return corpus, images, source.path


def count_training_images(
    config: Mapping[str, Any], samples: Sequence[Sample], *, folder: Path | None
) -> int | None:
    """How many of the samples' files are in the training split that a run has recorded.

    None if the data of the training is no longer there. Copies of a file are not recognized.

    Args:
        config: config.json of the run.
        folder: of the run, which lists the images that it left out.
    """
    try:
        corpus, _, _ = open_corpus(config, split="train")
        lost = set() if folder is None else {row["name"] for row in read_left_out(folder)}
    except UserError:
        return None
    used = [sample for sample in corpus.splits["train"] if sample.name not in lost]
    # Fewer with --limit.
    count = (config["data"].get("split_counts") or {}).get("train")
    measured = [os.path.realpath(sample.path) for sample in samples]
    names = set(map(os.path.basename, measured))
    paths = [sample.path for sample in used[:count]]
    same = (path for path in paths if path.name in names or path.is_symlink())
    trained = set(map(os.path.realpath, same))
    return sum(path in trained for path in measured)


def _read_source(
    captions: Path | None,
    images: Path | None,
    recorded: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> CaptionSource:
    """The given captions; for images not used in training, their own; else the training's."""
    if captions is None and images is not None:
        captions = find_captions_if_any(images)
    if captions is None and recorded.get("texts"):
        # There were no human captions.
        return make_captions(
            _place(recorded, "texts", "--captions"), build(DataConfig, dict(settings))
        )
    if captions is None and images is not None:
        captions = find_captions(images)
    return read_captions(captions or _place(recorded, "captions", "--captions"))


def evaluate_split(
    encoder: DualEncoder,
    corpus: Corpus,
    *,
    split: str,
    keep: int = 0,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> SplitResult:
    """Encode every image and every caption of the split once, and rank in both directions.

    An image that cannot be read is left out, with its captions, and counted in the notes.

    Args:
        keep: number of top hits to return for each query.
        report: called with ("images" or "captions", done, total) as they are encoded.

    Raises:
        UserError: the split is empty, or more images are missing than training allowed.
    """
    samples = _require_samples(corpus, split)
    paths = [sample.path for sample in samples]
    images, broken = encoder.embed_files(paths, report=partial(report, "images"))
    corpus = corpus.leave_out(
        [LeftOut(split, samples[i].name, BROKEN, reason) for i, reason in broken.items()]
    )
    images = images[[index for index in range(len(samples)) if index not in broken]]
    samples = _require_samples(corpus, split)
    texts = [caption for sample in samples for caption in sample.captions]
    embedded = encoder.embed_captions(texts, report=partial(report, "captions"))
    try:
        evaluation = measure(images, embedded, _image_of(samples), keep=keep)
    except NotFiniteError as error:
        raise UserError(
            f"{encoder.name} cannot be measured: {error}; train it again, or use other weights"
        ) from error
    return SplitResult(corpus, split, tuple(texts), evaluation)


def _require_samples(corpus: Corpus, split: str) -> tuple[Sample, ...]:
    if not corpus.splits[split]:
        raise UserError(f"no image of the {split} split can be used: {'; '.join(corpus.notes)}")
    return corpus.splits[split]


def _usual_settings() -> Mapping[str, Any]:
    found: Mapping[str, Any] = resolve(read_recipe("paper"), stage="2").to_dict()["data"]
    return found


def _recorded_dense(recorded: Mapping[str, Any]) -> DenseText | None:
    """The dense text of the training, if it still exists."""
    dense = recorded.get("dense")
    return read_if_whole(Path(dense)) if dense and Path(dense).is_dir() else None


def _image_of(samples: Sequence[Sample]) -> np.ndarray:
    return np.repeat(np.arange(len(samples)), [len(sample.captions) for sample in samples])


def _place(recorded: Mapping[str, Any], what: str, option: str) -> Path:
    found = find_place(recorded, what)
    if found is not None:
        return found
    if recorded.get(what) is None:
        raise UserError(f"the model does not say where its {what} were: use {option}")
    raise UserError(f"the {what} of the training are no longer at {recorded[what]}: use {option}")
