"""What `--images` means: a folder, a pattern, a list, annotations, archives, tables, a data set."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.errors import UsageError, UserError
from data.files.formats import IMAGE_SUFFIXES
from data.sources.annotations import list_annotations, open_annotations
from data.sources.archive import list_archives, open_archives
from data.sources.columns import NO_IDS, Columns
from data.sources.dataset import PREFIX, list_dataset, open_dataset
from data.sources.files import (
    is_pattern,
    list_folder,
    list_list,
    list_pattern,
    match_files,
    open_list,
    open_pattern,
)
from data.sources.record import Listing, Source, find_below, keep_typed
from data.sources.records import Records
from data.sources.table import list_tables, open_tables

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_TABLES = {"parquet": list_tables, "dataset": list_dataset}
_LIST_SUFFIXES = {".txt", ".lst", ".list"}


@dataclass(frozen=True)
class SourceOptions:
    """Options that refine `--images`.

    `root` is the folder of the files in a list or in annotations; `split` selects a split of
    annotations or of a data set; `columns` names columns of a table; `revision` is the commit on
    the Hub that a run started with.
    """

    root: Path | None = None
    split: str | None = None
    config: str | None = None
    streaming: bool = False
    columns: Columns = Columns()
    revision: str | None = None


def open_source(images: str, options: SourceOptions) -> Source:
    """Recognize a source; the images are not listed yet.

    Raises:
        UserError: it is not a known kind of source, does not exist, or an option does not apply.
    """
    source = _open(images, options)
    _refuse_unfitting(images, source, options)
    return source


def _open(images: str, options: SourceOptions) -> Source:
    if images.startswith(PREFIX):
        refuse_nameless(images.removeprefix(PREFIX))
        return open_dataset(
            images.removeprefix(PREFIX),
            config=options.config,
            split=options.split,
            streaming=options.streaming,
            wanted=options.columns,
            revision=options.revision,
        )
    path = Path(images)
    if path.is_dir():
        return Source("folder", str(keep_typed(path)))
    if _BRACES.search(images) or is_pattern(images):
        return _open_pattern(images, options)
    if not path.exists():
        hint = f"; for a data set of the Hub, use {PREFIX}{images}" if _like_hub(images) else ""
        raise UserError(f"--images {images} does not exist{hint}")
    kind = path.suffix.lower()
    if kind == ".tar":
        return open_archives([path])
    if kind == ".parquet":
        return open_tables([path], wanted=options.columns)
    if kind == ".json":
        return open_annotations(path, root=options.root, split=options.split)
    if kind in _LIST_SUFFIXES:
        return open_list(path, root=options.root)
    raise UserError(
        f"--images {images} is not a known kind of file: specify a folder, a pattern "
        f"('coco/**/*.jpg'), a list (.txt), annotations (.json), .tar, .parquet, or {PREFIX}NAME "
        "for a data set"
    )


def list_source(source: Source, options: SourceOptions, *, exclude: Sequence[Path] = ()) -> Listing:
    """The images of a source, in an order that does not change.

    Raises:
        UserError: they cannot be listed, there are none, or two have the same id.
    """
    listing = _list(source, options, exclude)
    notes = listing.notes
    if not listing.records:
        raise UserError(f"{source.options.get('files', [source.root])[0]} contains no images")
    records = Records.collect(listing.records)
    repeat = records.find_repeat()
    if repeat is not None and source.kind in _TABLES and repeat[0].image_id is None:
        records = Records.collect(_TABLES[source.kind](source, by_place=True).records)
        told = f"rows are named by their position: more than one is called {repeat[0].file_name}"
        repeat, notes = records.find_repeat(), (*notes, told)
    if repeat is not None:
        ids = source.kind in _TABLES and repeat[0].image_id is not None
        way = f": specify another column of ids with --id-column, or none: --id-column {NO_IDS}"
        way = way if ids else ""
        raise UserError(
            f"two images have the same name or id: {repeat[0].file_name} and "
            f"{repeat[1].file_name}; each image needs its own{way}"
        )
    return replace(listing, records=records, notes=notes)


def _list(source: Source, options: SourceOptions, exclude: Sequence[Path]) -> Listing:
    if source.kind == "folder":
        # The name used in messages.
        folder = Path(source.root)
        return list_folder(find_below(folder) or folder, exclude=exclude)
    if source.kind == "tar":
        return list_archives(source)
    if source.kind in _TABLES:
        return _TABLES[source.kind](source)
    if "annotations" in source.options:
        return list_annotations(source)
    if "pattern" in source.options:
        return list_pattern(source, source.options["pattern"])
    return list_list(source, root=options.root)


def _open_pattern(images: str, options: SourceOptions) -> Source:
    if Path(images).suffix.lower() in IMAGE_SUFFIXES:
        # A million files may match; they are searched for when they are listed.
        return open_pattern(images)
    files = _expand_braces(images) if _BRACES.search(images) else match_files(images)
    kinds = {path.suffix.lower() for path in files}
    if kinds == {".tar"}:
        return open_archives(files)
    if kinds == {".parquet"}:
        return open_tables(files, wanted=options.columns)
    if _BRACES.search(images):
        raise UserError(
            f"--images {images}: a range in braces works with .tar and .parquet files only"
        )
    return open_pattern(images)


def _expand_braces(text: str) -> list[Path]:
    """Expand `x-{000..012}.tar`, the notation of WebDataset."""
    found = _BRACES.search(text)
    assert found is not None
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    names = [text[: found.start()] + f"{n:0{len(first)}}" + text[found.end() :] for n in numbers]
    missing = [name for name in names if not Path(name).is_file()]
    if missing or not names:
        raise UserError(f"--images {text}: {missing[0] if missing else 'the range'} does not exist")
    return [Path(name) for name in names]


def _refuse_unfitting(images: str, source: Source, options: SourceOptions) -> None:
    """UserError for options that would be ignored."""
    dataset, annotations = source.kind == "dataset", "annotations" in source.options
    listed = source.kind == "files" and "list" in source.options
    fitting = {
        "--image-root": (options.root is not None, listed or annotations),
        "--split": (options.split is not None, dataset or annotations),
        "--dataset-config": (options.config is not None, dataset),
        "--streaming": (options.streaming, dataset),
        "a column": (options.columns != Columns(), dataset or source.kind == "parquet"),
    }
    for name, (given, fits) in fitting.items():
        if given and not fits:
            what = ", a list of URLs" if source.kind == "urls" else ""
            raise UsageError(f"{name} cannot be used with --images {images}{what}")


def _like_hub(text: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None


def refuse_nameless(name: str) -> None:
    """UserError for `hf:` alone, which would be the current folder."""
    if not name.strip():
        raise UserError(
            f"{PREFIX} names no data set: write {PREFIX}NAME, or {PREFIX}. for the current folder"
        )
