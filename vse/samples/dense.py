"""Dense text for training: by file name, or by image id if the names differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq

from data.dense.shards import list_shards, read_rows
from data.errors import UserError
from data.files.hashes import hash_bytes
from data.images import ImageError, Status, read_file
from data.matching import list_some, tie
from data.sparse.sentences import split_sentences
from data.sparse.source import CaptionedImage, CaptionSource, split_by_hash
from vse.recipes import DataConfig
from vse.samples.named_texts import first_run

# Number of pairs that are compared before ids are trusted.
CHECKED = 8


# For an image, the samples of each text by name; a single text has one sample.
Said = tuple[tuple[str, ...], ...]
_NOTHING = "the captioner failed or wrote nothing"
# Minimum number of words of the sparse text; otherwise the next sentence is added.
_FEWEST_WORDS = 5


@dataclass(frozen=True)
class DenseText:
    """The rows of a captioning run: texts, and the status of every image.

    All are by file name. `by_id` maps image ids to file names; `hashes` are the SHA-256 of the
    captioned images, if known: an image without one was never decoded. `lacking`: why an image has
    no text.
    """

    folder: Path
    texts: Mapping[str, Said]
    statuses: Mapping[str, str]
    by_id: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    sample_ids: Mapping[str, str] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)

    def explain(self, name: str) -> str:
        """Why an image of the run has no text."""
        return self.lacking.get(name, _NOTHING)


def read_dense(folder: Path, names: Sequence[str] = ()) -> DenseText:
    """Read a captioning run, or the texts `names` in a folder of several.

    An image counts only if it has a text of each name.

    Raises:
        UserError: no run, an unfinished one, or a repeated file name.
    """
    if not names:
        return _read_run(folder)
    runs = [_read_run(folder / name) for name in names]
    statuses = {name: status for run in reversed(runs) for name, status in run.statuses.items()}
    lacking = {
        name: f"{run.explain(name)} in {run.folder}" if name in run.statuses else _no_text(run)
        for run in reversed(runs)
        for name in statuses.keys() - run.texts.keys()
    }
    texts = {
        name: tuple(samples for run in runs for samples in run.texts[name])
        for name in statuses.keys() - lacking.keys()
    }
    return replace(runs[0], folder=folder, texts=texts, statuses=statuses, lacking=lacking)


def _no_text(run: DenseText) -> str:
    return f"no text in {run.folder}"


def _read_run(folder: Path) -> DenseText:
    columns = ["file_name", "caption", "status", "image_id", "image_sha256", "sample_id"]
    table = read_rows(folder, columns)
    names, captions, told, ids, hashes, keys = (table.column(c).to_pylist() for c in columns)
    statuses: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    for name, text, status in zip(names, captions, told, strict=True):
        # One successful sample is enough.
        statuses[name] = status if statuses.get(name) != Status.OK else str(Status.OK)
        if text and text.strip() and status == Status.OK:
            samples.setdefault(name, []).append(text)
    if len(statuses) != len(names) and not _has_samples(folder):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{folder} has more than one row for {twice}")
    texts: dict[str, Said] = {name: (tuple(said),) for name, said in samples.items()}
    pairs = dict(zip(names, ids, strict=True))
    once = Counter(pairs.values())
    by_id = {i: name for name, i in pairs.items() if i and once[i] == 1}
    known = {name: value for name, value in zip(names, hashes, strict=True) if value}
    return DenseText(folder, texts, statuses, by_id, known, dict(zip(names, keys, strict=True)))


def _has_samples(folder: Path) -> bool:
    """Whether the rows of a run are samples, several of each image."""
    return any("sample" in pq.read_schema(path).names for path in list_shards(folder)[:1])


def make_captions(folder: Path, data: DataConfig) -> CaptionSource:
    """The replacement for human captions: a short text by a model, with splits by hash.

    This is `data.sparse_text`, or else the first sentence of the first dense text.
    """
    chosen = (data.sparse_text,) if data.sparse_text else (data.texts or ())[:1]
    dense = read_dense(folder, chosen)
    what = f"the text {data.sparse_text}" if data.sparse_text else "the dense text's first sentence"
    images = []
    for name, sample_id in dense.sample_ids.items():
        said = dense.texts.get(name, ((),))[0]
        short = said if data.sparse_text else tuple(map(_first_sentence, said))
        images.append(CaptionedImage(name, short, split_by_hash(sample_id)))
    notes = (
        f"no human captions: {what} is used as sparse text",
        "no splits in the source: 80/10/10 train/val/test by a hash of the sample id",
    )
    lack = f"no text in {folder / chosen[0] if chosen else folder}"
    return CaptionSource(folder, "texts", tuple(images), notes, lack=lack)


def refuse_known_captions(folder: Path) -> None:
    """UserError if the captioner's source has human captions, which should be used instead."""
    if any(read_rows(first_run(folder), ["captions"]).column("captions").to_pylist()):
        raise UserError(
            f"the images of {folder} had human captions when they were captioned: specify the file "
            "with --captions, or a short text of the captioner with --set data.sparse_text=NAME"
        )


def _first_sentence(text: str) -> str:
    """The first sentence, with the following ones while there are too few words."""
    taken: list[str] = []
    for sentence in split_sentences(text):
        taken += sentence.split()
        if len(taken) >= _FEWEST_WORDS:
            break
    return " ".join(taken)


def dense_of_source(source: CaptionSource) -> DenseText:
    """The dense text in a caption source."""
    said = {image.file_name: image.dense for image in source.images if image.dense is not None}
    texts: dict[str, Said] = {name: ((text,),) for name, text in said.items() if text.strip()}
    return DenseText(source.path, texts, dict.fromkeys(said, str(Status.OK)))


def read_if_whole(folder: Path) -> DenseText | None:
    """`read_dense`, or None if it cannot be read or is unfinished.

    For callers that only need to know which images could not be read.
    """
    try:
        return read_dense(first_run(folder))
    except UserError:
        return None


def match_by_id(
    wanted: Sequence[CaptionedImage], files: Sequence[Path | None], dense: DenseText
) -> tuple[list[str | None], list[str]]:
    """The row with the id of each wanted image, if no file name of the run is known; and notes.

    Two data sets can both number their images from 0, so the first pairs must be the captioned
    images, byte for byte. A run without SHA-256 of its images is not matched by id.

    Raises:
        UserError: the ids match but the images do not.
    """
    ties = tie([image.image_id for image in wanted], list(dense.by_id))
    names = list(dense.by_id.values())
    rows = [None if row is None else names[row] for row in ties.rows]
    pairs = _pair(wanted, files, rows, dense)
    if not pairs:
        return [None] * len(wanted), []
    wrong = [
        f"{image.image_id} ({image.file_name}, there {row})"
        for image, file, row in pairs[:CHECKED]
        if _hash(file) != dense.hashes[row]
    ]
    if wrong:
        raise UserError(
            f"the images of {dense.folder} have other file names, and the images with the same ids "
            f"differ too: {list_some(wrong)}; specify the dense text of these images with --dense"
        )
    found = len(rows) - rows.count(None)
    return rows, [
        f"dense text of {found:,} of {len(rows):,} images matched by image id, because its run has "
        "other file names"
    ]


def find_other_files(
    wanted: Sequence[CaptionedImage],
    files: Sequence[Path | None],
    rows: Sequence[str | None],
    dense: DenseText,
) -> list[str]:
    """A warning if images with the names of captioned ones are different files.

    They may be smaller copies, which is fine, or other images, with wrong texts. A sample spread
    over all images is compared, if the run has their SHA-256.
    """
    pairs = _pair(wanted, files, rows, dense)
    looked = pairs[:: max(1, len(pairs) // CHECKED)][:CHECKED]
    others = [image.file_name for image, file, row in looked if _hash(file) != dense.hashes[row]]
    if not others:
        return []
    return [
        f"{len(others)} of {len(looked)} images checked are not the files that {dense.folder} "
        f"captioned: {list_some(others)}; if they are not copies of those, the texts are wrong"
    ]


def _pair(
    wanted: Sequence[CaptionedImage],
    files: Sequence[Path | None],
    rows: Sequence[str | None],
    dense: DenseText,
) -> list[tuple[CaptionedImage, Path, str]]:
    """Images with their file and row, if the hash of the captioned image is known."""
    return [
        (image, file, row)
        for image, file, row in zip(wanted, files, rows, strict=True)
        if file is not None and row is not None and row in dense.hashes
    ]


def _hash(path: Path) -> str | None:
    try:
        return hash_bytes(read_file(path))
    except ImageError:
        return None
