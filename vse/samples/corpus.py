"""Images with sparse captions and dense text, matched by file name, never by position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.errors import UserError
from data.images import ImageError, Status, check_header
from data.matching import list_some, tie
from data.sources.files import list_folder
from data.sparse.sentences import split_sentences
from data.sparse.source import SPLITS, CaptionedImage, CaptionSource
from vse.samples.dense import DenseText, Said, find_other_files, match_by_id

# Number of examples in an error; a run's left_out.jsonl has all of them.
_MOST_NAMES = 20
_UNREADABLE = {str(Status.DECODE_ERROR), str(Status.TOO_LARGE)}
BROKEN = "the file cannot be read as an image"


@dataclass(frozen=True)
class Sample:
    """One existing image with its sparse captions and dense text.

    The ids are those of the caption source, if it has any; `caption_ids` is empty otherwise.
    `said`: its dense texts by name, see `vse.samples.dense.Said`; empty without dense text.
    `decoded`: whether the captioner could read it.
    """

    name: str
    path: Path
    captions: tuple[str, ...]
    said: Said
    image_id: str | None = None
    caption_ids: tuple[str, ...] = ()
    decoded: bool = False

    @property
    def dense(self) -> tuple[str, ...]:
        """All dense texts, name by name."""
        return tuple(text for samples in self.said for text in samples)


@dataclass(frozen=True)
class LeftOut:
    """An image of the caption source that cannot be used; `detail` is specific to it."""

    split: str
    name: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


@dataclass(frozen=True)
class CorpusSettings:
    """Which images and captions to use, and how many of a split may be left out.

    max_missing: as a share of a split; `hint`, which contains {share}, says how to allow more.
    limit: number of images of each split; captions_per_image: number of captions of each image.
    probe: leave out files without an image header, unless the captioner has read them.
    """

    max_missing: float
    captions_per_image: int | None = None
    limit: int | None = None
    splits: Sequence[str] = SPLITS
    probe: bool = False
    hint: str = "allow it with --set data.max_missing={share}"


@dataclass(frozen=True)
class Corpus:
    """Samples per split, in the order of the caption source, and what was left out and why.

    `asked` is the number of images that each split should have, `dataset` the name of the data set,
    `remarks` are further notes for the user.
    """

    splits: Mapping[str, tuple[Sample, ...]]
    asked: Mapping[str, int]
    remarks: tuple[str, ...]
    dataset: str
    settings: CorpusSettings
    left_out: tuple[LeftOut, ...] = ()

    def counts(self) -> dict[str, int]:
        """Images per split."""
        return {split: len(samples) for split, samples in self.splits.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, one line each."""
        lost = [
            f"left out {len(images)} of {self.asked[split]} {split} images: {reason} "
            f"({list_some([str(image) for image in images], most=1)})"
            for split in SPLITS
            for reason, images in self._group(split).items()
        ]
        return (*self.remarks, *lost)

    def training_texts(self) -> Iterator[str]:
        """The texts for building a tokenizer: captions and dense texts, for any stage."""
        for kind in ("sparse", "dense"):
            yield from list_texts(self.splits["train"], kind)

    def leave_out(self, images: Sequence[LeftOut]) -> Corpus:
        """The corpus without these images.

        Raises:
            UserError: more of a split is missing then than `settings.max_missing`.
        """
        gone = {(image.split, image.name) for image in images}
        splits = {
            split: tuple(sample for sample in samples if (split, sample.name) not in gone)
            for split, samples in self.splits.items()
        }
        made = replace(self, splits=splits, left_out=(*self.left_out, *images))
        for split in SPLITS:
            made._refuse_if_many(split)
        return made

    def _group(self, split: str) -> dict[str, list[LeftOut]]:
        """The images left out of a split, by reason."""
        found: dict[str, list[LeftOut]] = {}
        for image in self.left_out:
            if image.split == split:
                found.setdefault(image.reason, []).append(image)
        return found

    def _refuse_if_many(self, split: str) -> None:
        lost, total = self._group(split), self.asked[split]
        count = sum(map(len, lost.values()))
        if count <= self.settings.max_missing * total:
            return
        told = "; ".join(
            f"{len(images)} {reason}: {list_some([str(i) for i in images], most=_MOST_NAMES)}"
            for reason, images in lost.items()
        )
        share = min(1.0, round(count / total + 0.005, 2))
        raise UserError(
            f"{count} of {total} {split} images cannot be used: {told}; fix that, or "
            + self.settings.hint.format(share=share)
        )


def list_texts(samples: Sequence[Sample], kind: str) -> list[str]:
    """All "dense" or "sparse" texts of the samples."""
    if kind == "dense":
        return [text for sample in samples for text in sample.dense]
    return [caption for sample in samples for caption in sample.captions]


def split_dense(sample: Sample) -> Sample:
    """The sample with each sentence of its dense texts as a separate text."""
    sentences = [part for text in sample.dense for part in split_sentences(text)]
    return replace(sample, said=tuple((part,) for part in sentences))


def build_corpus(
    images: Path,
    source: CaptionSource,
    settings: CorpusSettings,
    *,
    dense: DenseText | None = None,
    captioned: DenseText | None = None,
) -> Corpus:
    """Match the images on disk, the captions and the dense text.

    Training images without a file, a caption or dense text are left out and counted; images of any
    split that the captioner could not read are left out too.

    Args:
        captioned: without `dense`, a captioning run of the images; its texts are not read, but it
            shows which images are readable.

    Raises:
        UserError: nothing matches, or more than `settings.max_missing` is missing.
    """
    names = [record.file_name for record in list_folder(images).records]
    wanted = _select(source, settings)
    if not wanted:
        raise UserError(f"{source.path} has no image in the {' or '.join(settings.splits)} split")
    files, remarks = _tie_images(source, wanted, names, "files")
    if not any(files):
        raise UserError(
            f"none of the {len(wanted)} images of {source.path} is in {images} (wanted "
            f"{wanted[0].file_name}, found {names[0]}; folders must match): specify the folder "
            "that the names are relative to with --images, or the captions with --captions"
        )
    rows: list[str | None] = [None] * len(wanted)
    paths = [images / file if file else None for file in files]
    run = captioned if dense is None else dense
    if run is not None:
        rows, more = _tie_images(source, wanted, list(run.statuses), "dense text")
        if dense is not None and not any(rows):
            rows, more = match_by_id(wanted, paths, dense)
            if not any(rows):
                raise UserError(
                    f"no dense text in {dense.folder} belongs to an image of {source.path} (wanted "
                    f"{wanted[0].file_name}, found {next(iter(run.statuses), 'no row')}; folders "
                    "must match): specify another folder with --dense"
                )
        elif dense is not None:
            more += find_other_files(wanted, paths, rows, dense)
        remarks += more
    joiner = _Joiner(images, dense, run, settings, source.lack)
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    left_out = []
    for image, path, row in zip(wanted, paths, rows, strict=True):
        found = joiner.join(image, path, row)
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            samples[image.split].append(found)
    if joiner.cut:
        remarks.append(
            f"left out {joiner.cut} captions: only {settings.captions_per_image} per image"
        )
    splits = {split: tuple(found) for split, found in samples.items()}
    totals = Counter(image.split for image in wanted)
    remarks = [*source.notes, *remarks]
    corpus = Corpus(splits, totals, tuple(remarks), source.dataset, settings)
    return corpus.leave_out(left_out)


def _tie_images(
    source: CaptionSource, wanted: Sequence[CaptionedImage], names: Sequence[str], what: str
) -> tuple[list[str | None], list[str]]:
    """The one of `names` that matches each wanted image, and notes.

    All images of the source are considered: a folder of training images must not match a test
    split.
    """
    ties = tie([image.file_name for image in source.images], names)
    found = dict(zip((image.file_name for image in source.images), ties.rows, strict=True))
    rows = (found[image.file_name] for image in wanted)
    notes = [f"{what}: {note}" for note in ties.notes]
    return [None if row is None else names[row] for row in rows], notes


@dataclass
class _Joiner:
    """`cut` counts the captions beyond the number in `settings`."""

    images: Path
    dense: DenseText | None
    run: DenseText | None
    settings: CorpusSettings
    lack: str
    cut: int = 0

    def join(self, image: CaptionedImage, path: Path | None, row: str | None) -> Sample | LeftOut:
        """`row` is the image's name in the dense text, or in the run that only shows errors."""
        decoded = self.run is not None and row in self.run.hashes
        reason, detail = self._why_not(image, path, row), ""
        if path is not None and not reason and self.settings.probe and not decoded:
            detail = _find_header_fault(path)
            reason = BROKEN if detail else ""
        if path is None or reason:
            return LeftOut(image.split, image.file_name, reason, detail)
        most = self.settings.captions_per_image
        self.cut += len(image.captions) - len(image.captions[:most])
        return Sample(
            image.file_name,
            path,
            image.captions[:most],
            self.dense.texts.get(row, ()) if self.dense and row else (),
            image.image_id,
            image.caption_ids[:most],
            decoded,
        )

    def _why_not(self, image: CaptionedImage, path: Path | None, row: str | None) -> str:
        if path is None:
            return f"no file in {self.images}"
        if row is not None and self.run is not None and self.run.statuses[row] in _UNREADABLE:
            return "the captioner could not read the file"
        if not image.captions:
            return self.lack
        if self.dense is not None and image.split == "train":
            if row is None:
                return f"no dense text in {self.dense.folder}"
            if row not in self.dense.texts:
                return self.dense.explain(row)
        return ""


def _find_header_fault(path: Path) -> str:
    """The error in an image file's header, or ""."""
    try:
        check_header(path)
    except ImageError as error:
        return str(error)
    return ""


def _select(source: CaptionSource, settings: CorpusSettings) -> list[CaptionedImage]:
    taken: Counter[str] = Counter()
    kept = []
    for image in source.images:
        fits = settings.limit is None or taken[image.split] < settings.limit
        if image.split in settings.splits and fits:
            taken[image.split] += 1
            kept.append(image)
    return kept
