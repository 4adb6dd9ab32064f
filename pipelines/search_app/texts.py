"""The texts of each image: dense text and sparse captions, by file name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError
from data.escaping import show_name
from data.matching import tie
from data.sparse.captions import find_captions, read_captions
from vse.samples.dense import read_dense
from vse.samples.discovery import find_run_of
from vse.samples.named_texts import first_run
from vse.search.index import Index

T = TypeVar("T")
# Options of a source that say which images it has; a split of files is no other folder.
_PLACES = ("files", "name", "config", "revision", "columns")
_TEXTS = pa.schema(
    [
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("dense", pa.string()),
        pa.field("captions", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class TextsOfImage:
    """`dense` is None without a dense text."""

    dense: str | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageTexts:
    """Texts by the file names in the indexes; `notes` report matches by less than a whole name."""

    dense: Mapping[str, str] = field(default_factory=dict)
    captions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def find(self, file_name: str | None) -> TextsOfImage:
        """The texts of one image, which may be empty."""
        if file_name is None:
            return TextsOfImage()
        return TextsOfImage(self.dense.get(file_name), self.captions.get(file_name, ()))


def find_text_files(
    index: Index, *, dense: Path | None, captions: Path | None, images: Path | None
) -> tuple[Path | None, Path | None]:
    """Find dense text and captions, by default where training would find them.

    None if there are none, or several: the page also works without them.
    """
    root = index.info.source.get("root") if index.info.kind == "images" else None
    folder = images or (Path(root) if root else None)
    if folder is None or not folder.is_dir():
        return dense, captions
    if captions is None:
        try:
            captions = find_captions(folder)
        except UserError:
            captions = None
    return dense or find_run_of(folder), captions


def number_places(indexes: Sequence[Index]) -> list[int]:
    """Equal numbers for indexes of the same source; each without one is of its own."""
    first: dict[str, int] = {}
    return [first.setdefault(_name_place(i) or str(n), n) for n, i in enumerate(indexes)]


def find_shared_names(indexes: Sequence[Index], places: Sequence[int] | None = None) -> set[str]:
    """The file names of different images: nobody knows which a text belongs to.

    Args:
        places: as from `number_places`, if the indexes no longer record their source. Those of the
            same source have the same images.
    """
    pictured: dict[int, set[str | None]] = {}
    for index, place in zip(indexes, places or number_places(indexes), strict=True):
        if index.info.kind == "images":
            pictured.setdefault(place, set()).update(index.read_file_names())
    if len(pictured) < 2:
        return set()
    counts = Counter(name for names in pictured.values() for name in names if name is not None)
    return {name for name, count in counts.items() if count > 1}


def list_file_names(indexes: Sequence[Index]) -> list[str]:
    """The file names in the indexes, each once, in order."""
    names = (name for index in indexes for name in index.read_file_names())
    return list(dict.fromkeys(name for name in names if name))


def collect_texts(
    indexes: Sequence[Index], *, dense: Path | None, captions: Path | None
) -> ImageTexts:
    """The texts of the images that the indexes name, by file name; none for shared names.

    Raises:
        UserError: a captioning run or a caption file that cannot be read.
    """
    told = {} if dense is None else read_dense(first_run(dense)).texts
    said: Mapping[str, str] = {name: samples[0][0] for name, samples in told.items()}
    source = None if captions is None else read_captions(captions)
    people = {} if source is None else {i.file_name: i.captions for i in source.images}
    if source is not None and dense is None:
        said = {i.file_name: i.dense for i in source.images if i.dense}
    names, shared = list_file_names(indexes), find_shared_names(indexes)
    texts, notes = _by_wanted(names, said)
    captions_of, more = _by_wanted(names, people)
    # Only now: without them, their texts could seem to belong to names that are nearly the same.
    for name in shared:
        texts.pop(name, None)
        captions_of.pop(name, None)
    lost = () if source is None else source.left_out
    return ImageTexts(texts, captions_of, (*lost, *_describe(shared), *notes, *more))


def write_packed_texts(
    texts: ImageTexts, file_names: Sequence[str], path: Path, *, names: Mapping[str, str]
) -> int:
    """Write the texts of images that have any; returns the number of these images.

    `names` are new file names by old ones; others are kept.
    """
    rows = []
    for name in file_names:
        found = texts.find(name)
        if found.dense is not None or found.captions:
            captions = list(found.captions)
            rows.append(
                {"file_name": names.get(name, name), "dense": found.dense, "captions": captions}
            )
    pq.write_table(pa.Table.from_pylist(rows, schema=_TEXTS), path, compression="zstd")
    return len(rows)


def read_packed_texts(path: Path) -> ImageTexts:
    """The inverse of `write_packed_texts`."""
    rows = pq.read_table(path).to_pylist()
    return ImageTexts(
        {row["file_name"]: row["dense"] for row in rows if row["dense"] is not None},
        {row["file_name"]: tuple(row["captions"]) for row in rows if row["captions"]},
    )


def _name_place(index: Index) -> str | None:
    source = index.info.source
    if not source:
        return None
    place = {key: source.get(key) for key in ("kind", "root")}
    options = source.get("options", {})
    place |= {key: options.get(key) for key in _PLACES}
    if place["kind"] == "dataset":
        place["split"] = options.get("split")
    return json.dumps(place)


def _describe(shared: set[str]) -> tuple[str, ...]:
    if not shared:
        return ()
    told = f"{len(shared):,} file names, such as {show_name(min(shared))}, are in several indexes"
    return (f"{told} of images: their texts and pictures are not shown together",)


def _by_wanted(
    wanted: Sequence[str], known: Mapping[str, T]
) -> tuple[dict[str, T], tuple[str, ...]]:
    texts = list(known.values())
    ties = tie(wanted, list(known))
    pairs = zip(wanted, ties.rows, strict=True)
    return {name: texts[row] for name, row in pairs if row is not None}, ties.notes
