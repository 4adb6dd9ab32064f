"""Images, their sparse captions and their dense text, joined by file name, never by position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.errors import UserError
from data.images import ImageError, Status, check_header
from data.matching import tie
from data.sources.files import list_folder
from data.sparse.source import SPLITS, CaptionedImage, CaptionSource
from vse.samples.dense import DenseText, find_other_files, match_by_id

# Of an error; a run's left_out.jsonl has all of them.
_MOST_NAMES = 20
UNREADABLE = {str(Status.DECODE_ERROR), str(Status.TOO_LARGE)}


@dataclass(frozen=True)
class Sample:
    """One image that is there, with what people and the captioner said about it.

    The ids are those of the caption source, where it has some; `caption_ids` is empty otherwise.
    """

    name: str
    path: Path
    captions: tuple[str, ...]
    dense: str | None
    image_id: str | None = None
    caption_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """An image of the caption source that cannot be used."""

    split: str
    name: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """Samples per split, in the order of the caption source, and what was left out and why.

    `asked` is how many images of each split there should have been, `max_missing` the share of
    them that may be left out, and `dataset` what the data set is called.
    """

    splits: Mapping[str, tuple[Sample, ...]]
    asked: Mapping[str, int]
    notes: tuple[str, ...]
    dataset: str
    max_missing: float
    left_out: tuple[LeftOut, ...] = ()

    def counts(self) -> dict[str, int]:
        """Images per split."""
        return {split: len(samples) for split, samples in self.splits.items()}

    def training_texts(self) -> Iterator[str]:
        """What a tokenizer is built from: captions and dense texts, whichever the stage reads."""
        for kind in ("sparse", "dense"):
            yield from list_texts(self.splits["train"], kind)


def list_texts(samples: Sequence[Sample], kind: str) -> list[str]:
    """All "dense" or "sparse" texts of the samples."""
    if kind == "dense":
        return [sample.dense for sample in samples if sample.dense]
    return [caption for sample in samples for caption in sample.captions]


def build_corpus(
    *,
    images: Path,
    source: CaptionSource,
    dense: DenseText | None,
    max_missing: float,
    statuses: Mapping[str, str] | None = None,
    probe: bool = False,
    captions_per_image: int | None = None,
    limit: int | None = None,
    splits: Sequence[str] = SPLITS,
) -> Corpus:
    """Join what lies on disk, the captions and the dense text.

    Training images without a file, a caption or dense text are left out and counted; images of any
    split that the captioner could not read are left out too. With `limit`, only the first so many
    images of each split are kept, with `captions_per_image` only the first captions of each.

    Args:
        statuses: without `dense`, those of a captioning run: what it could not read is left out.
        probe: leave a file out whose header is no image's, where no captioner has read it.

    Raises:
        UserError: nothing matches, or a larger share than `max_missing` is missing.
    """
    names = [record.file_name for record in list_folder(images).records]
    wanted = _select(source, limit, splits)
    if not wanted:
        raise UserError(f"{source.path} has no image in the {' or '.join(splits)} split")
    files, notes = _tie_images(source, wanted, names, "files")
    if not any(files):
        raise UserError(
            f"none of the {len(wanted)} images of {source.path} lies in {images} "
            f"(wanted {wanted[0].file_name}, found {names[0]}; folders must agree): name the "
            "folder that the names are in with --images, or the captions with --captions"
        )
    rows: list[str | None] = [None] * len(wanted)
    paths = [images / file if file else None for file in files]
    if dense is not None:
        statuses = dense.statuses
    if statuses is not None:
        rows, more = _tie_images(source, wanted, list(statuses), "dense text")
        if dense is not None and not any(rows):
            rows, more = match_by_id(wanted, paths, dense)
            if not any(rows):
                raise UserError(
                    f"no dense text in {dense.folder} belongs to an image of {source.path} "
                    f"(wanted {wanted[0].file_name}, found {next(iter(statuses), 'no row')}; "
                    "folders must agree): name another folder with --dense"
                )
        elif dense is not None:
            more += find_other_files(wanted, paths, rows, dense)
        notes += more
    joiner = _Joiner(images, source, dense, statuses or {}, probe, max_missing, captions_per_image)
    corpus = joiner.join(wanted, files, rows)
    return replace(corpus, notes=(*corpus.notes, *notes))


def _tie_images(
    source: CaptionSource, wanted: Sequence[CaptionedImage], names: Sequence[str], what: str
) -> tuple[list[str | None], list[str]]:
    """The one of `names` that belongs to each wanted image, and notes.

    All images of the source count: a folder of train images is no test split.
    """
    ties = tie([image.file_name for image in source.images], names)
    found = dict(zip((image.file_name for image in source.images), ties.rows, strict=True))
    rows = (found[image.file_name] for image in wanted)
    notes = [f"{what}: {note}" for note in ties.notes]
    return [None if row is None else names[row] for row in rows], notes


@dataclass
class _Joiner:
    images: Path
    source: CaptionSource
    dense: DenseText | None
    statuses: Mapping[str, str]
    probe: bool
    max_missing: float
    captions_per_image: int | None

    def join(
        self,
        wanted: Sequence[CaptionedImage],
        files: Sequence[str | None],
        rows: Sequence[str | None],
    ) -> Corpus:
        splits: dict[str, list[Sample]] = {split: [] for split in SPLITS}
        lost: dict[tuple[str, str], list[str]] = {}
        cut = 0
        for image, file, row in zip(wanted, files, rows, strict=True):
            reason = self._why_not(image, file, row)
            if reason:
                lost.setdefault((image.split, reason), []).append(image.file_name)
                continue
            assert file is not None
            text = self.dense.texts.get(row) if self.dense and row else None
            captions = image.captions[: self.captions_per_image]
            cut += len(image.captions) - len(captions)
            ids = image.caption_ids[: self.captions_per_image]
            path = self.images / file
            sample = Sample(image.file_name, path, captions, text, image.image_id, ids)
            splits[image.split].append(sample)
        totals = Counter(image.split for image in wanted)
        for split in SPLITS:
            reasons = {reason: ids for (where, reason), ids in lost.items() if where == split}
            self._refuse_if_many(split, reasons, totals[split])
        notes = [
            f"left out {len(ids)} of {totals[split]} {split} images: {reason} ({ids[0]}"
            f"{', ...' if len(ids) > 1 else ''})"
            for (split, reason), ids in lost.items()
        ]
        if cut:
            notes.append(f"left out {cut} captions: only {self.captions_per_image} of an image")
        kept = {split: tuple(samples) for split, samples in splits.items()}
        notes = [*self.source.notes, *notes]
        left_out = [
            LeftOut(split, name, reason)
            for (split, reason), names in lost.items()
            for name in names
        ]
        return Corpus(
            kept, totals, tuple(notes), self.source.dataset, self.max_missing, tuple(left_out)
        )

    def _why_not(self, image: CaptionedImage, file: str | None, row: str | None) -> str | None:
        if file is None:
            return f"no file in {self.images}"
        if not image.captions:
            return "no caption"
        if row is not None and self.statuses[row] in UNREADABLE:
            return "the captioner could not read the file"
        unseen = row is None or (self.dense is not None and not self.dense.saw_files)
        if self.probe and unseen and not _looks_readable(self.images / file):
            return "the file cannot be read as an image"
        if self.dense is not None and image.split == "train":
            if row is None:
                return f"no dense text in {self.dense.folder}"
            if row not in self.dense.texts:
                return "the captioner failed or said nothing"
        return None

    def _refuse_if_many(self, split: str, reasons: Mapping[str, list[str]], total: int) -> None:
        count = sum(map(len, reasons.values()))
        if count <= self.max_missing * total:
            return
        told = "; ".join(
            f"{len(names)} {reason}: {', '.join(names[:_MOST_NAMES])}"
            + (", ..." if len(names) > _MOST_NAMES else "")
            for reason, names in reasons.items()
        )
        raise UserError(
            f"{count} of {total} {split} images of {self.source.path} cannot be used: {told}; "
            "mend that, or allow it with "
            f"--set data.max_missing={min(1.0, round(count / total + 0.005, 2))}"
        )


def _looks_readable(path: Path) -> bool:
    try:
        check_header(path)
    except ImageError:
        return False
    return True


def _select(
    source: CaptionSource, limit: int | None, splits: Sequence[str]
) -> list[CaptionedImage]:
    taken: Counter[str] = Counter()
    kept = []
    for image in source.images:
        if image.split in splits and (limit is None or taken[image.split] < limit):
            taken[image.split] += 1
            kept.append(image)
    return kept
