"""Dense text as training reads it: by file name, or by image id where the names are others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.dense.shards import read_rows
from data.errors import UserError
from data.files.hashes import hash_bytes
from data.images import ImageError, Status, read_file
from data.matching import list_some, tie
from data.sparse.source import CaptionedImage, CaptionSource

# Pairs that are looked at before ids are trusted.
CHECKED = 8


@dataclass(frozen=True)
class DenseText:
    """The rows of a captioning run: text where there is one, and the status of every row.

    All are by file name. `by_id` are the file names by image id, `hashes` the SHA-256 of what was
    captioned, as far as they are known: an image without one was never decoded.
    """

    folder: Path
    texts: Mapping[str, str]
    statuses: Mapping[str, str]
    by_id: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)


def read_dense(folder: Path) -> DenseText:
    """Read a captioning run.

    Raises:
        UserError: no run, an unfinished one, or one file name twice.
    """
    columns = ["file_name", "caption", "status", "image_id", "image_sha256"]
    table = read_rows(folder, columns)
    names = table.column("file_name").to_pylist()
    captions = table.column("caption").to_pylist()
    statuses = dict(zip(names, table.column("status").to_pylist(), strict=True))
    if len(statuses) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{folder} has more than one row for {twice}")
    texts = {
        name: text
        for name, text in zip(names, captions, strict=True)
        if text and text.strip() and statuses[name] == Status.OK
    }
    ids, hashes = (table.column(name).to_pylist() for name in columns[3:])
    once = Counter(ids)
    by_id = {i: name for i, name in zip(ids, names, strict=True) if i and once[i] == 1}
    known = {name: value for name, value in zip(names, hashes, strict=True) if value}
    return DenseText(folder, texts, statuses, by_id, known)


def dense_of_source(source: CaptionSource) -> DenseText:
    """The dense text that a caption source has itself."""
    said = {image.file_name: image.dense for image in source.images if image.dense is not None}
    texts = {name: text for name, text in said.items() if text.strip()}
    return DenseText(source.path, texts, dict.fromkeys(said, str(Status.OK)))


def read_if_whole(folder: Path) -> DenseText | None:
    """`read_dense`, or None if it cannot be read or is unfinished.

    For those who want no text, only to know which images could not be read.
    """
    try:
        return read_dense(folder)
    except UserError:
        return None


def match_by_id(
    wanted: Sequence[CaptionedImage], files: Sequence[Path | None], dense: DenseText
) -> tuple[list[str | None], list[str]]:
    """For each wanted image the row with its id, where no file name of the run is known; notes.

    Two data sets count their images from 0, so the first pairs have to be the very images that were
    captioned, byte for byte. A run that does not know its images' SHA-256 is not joined by id.

    Raises:
        UserError: the ids agree and the images do not.
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
            f"are others too: {list_some(wrong)}; name the dense text of these images with --dense"
        )
    found = len(rows) - rows.count(None)
    return rows, [
        f"dense text of {found:,} of {len(rows):,} images joined by image id: its run has other "
        "file names for them"
    ]


def find_other_files(
    wanted: Sequence[CaptionedImage],
    files: Sequence[Path | None],
    rows: Sequence[str | None],
    dense: DenseText,
) -> list[str]:
    """A line if images that bear the names of those captioned are other files.

    They may be copies made smaller, which is well, or other images, whose texts would all be wrong.
    Some are looked at, spread over all of them, as far as the run knows its images' SHA-256.
    """
    pairs = _pair(wanted, files, rows, dense)
    looked = pairs[:: max(1, len(pairs) // CHECKED)][:CHECKED]
    others = [image.file_name for image, file, row in looked if _hash(file) != dense.hashes[row]]
    if not others:
        return []
    return [
        f"{len(others)} of {len(looked)} images looked at are not the files that {dense.folder} "
        f"captioned: {list_some(others)}; if they are no copies of those, the texts are wrong"
    ]


def _pair(
    wanted: Sequence[CaptionedImage],
    files: Sequence[Path | None],
    rows: Sequence[str | None],
    dense: DenseText,
) -> list[tuple[CaptionedImage, Path, str]]:
    """Images with their file and row, where it is known what was captioned."""
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
