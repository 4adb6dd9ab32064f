"""Exporting rows of a captioning run to another format."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from captioner.exports.images import Pictures
from captioner.exports.lines import write_jsonl, write_released
from captioner.exports.parquet import write_parquet
from captioner.exports.selection import Selection, select_rows
from captioner.exports.texts import write_conversations, write_csv, write_pairs, write_sidecars
from captioner.exports.webdataset import write_tars
from data.dense.run import find_source
from data.errors import UsageError, UserError
from data.files.atomic import refuse_current_folder
from data.files.formats import IMAGE_SUFFIXES
from data.images import Status
from data.sources import Source
from data.sources.archive import is_own
from data.sparse.released import describe_repeats, read_id_mapping, read_ids

_FOLDERS = ("parquet", "webdataset", "txt")
# Formats that only contain rows with a text.
_TEXTS = ("webdataset", "txt", "llava", "csv", "pairs")
# Formats with one file per image.
_OF_ONE = ("webdataset", "txt")
FORMATS = ("parquet", "jsonl", "webdataset", "d2s-jsonl", "txt", "llava", "csv", "pairs")
# The files of each format. Data sets of others have the same names, so their content counts, too.
_TAR = re.compile(r"\d{6}\.tar")
_PARQUET = re.compile(r"train-\d{5}-of-\d{5}\.parquet")
# Where the options of a source name files or folders.
_PLACES = ("list", "annotations", "name")


@dataclass(frozen=True)
class PreparedExport:
    """A checked export; nothing is written yet. `rows` is how many it will have, `left_out` the
    rows that will not be in it, by status.
    """

    selection: Selection
    format: str
    out: Path
    shard_size: int
    pictures: Pictures | None
    images: Path | None
    overwrite: bool
    rows: int
    left_out: dict[str, int]

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user."""
        ids = self.selection.ids
        return () if ids is None else (*describe_repeats(ids), *self.selection.notes)


@dataclass(frozen=True)
class ExportResult:
    """The result of an export. `left_out` are the run's rows that are not in it, by status, `lost`
    the images that are not, each with its reason.
    """

    out: Path
    format: str
    rows: int
    files: int
    bytes: int
    left_out: dict[str, int]
    lost: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ExportOptions:
    """The options of `d2s export`; see its --help."""

    format: str
    out: Path
    ids: Path | None = None
    id_mapping: Path | None = None
    images: Path | None = None
    embed_images: bool = False
    only_ok: bool = False
    shard_size: int = 10_000
    limit: int | None = None
    overwrite: bool = False

    @property
    def reads_images(self) -> bool:
        return self.embed_images or self.format == "webdataset"


def prepare_export(directory: Path, options: ExportOptions) -> PreparedExport:
    """Check the options and find every row.

    Raises:
        UserError: anything that the caller can fix.
    """
    _refuse_unfitting(options)
    format, out, limit = options.format, options.out, options.limit
    _refuse_existing(out, overwrite=options.overwrite, folder=format in _FOLDERS)
    ids, mapping = options.ids, options.id_mapping
    selection = select_rows(
        directory,
        ids=read_ids(ids) if ids is not None else None,
        mapping=read_id_mapping(mapping) if mapping is not None else None,
        only_ok=options.only_ok or format in _TEXTS,
        limit=limit,
    )
    if out.exists():
        _refuse_images(out, _list_sources(selection, images=options.images))
    samples = (selection.run.get("settings", {}).get("text") or {}).get("samples", 1)
    if samples > 1 and (ids is not None or format in _OF_ONE):
        raise UserError(
            f"{directory} has {samples} texts per image, but --format {format} and --ids work with "
            "one: use --format jsonl, parquet, llava or csv"
        )
    statuses = selection.count_statuses()
    left_out = {s: n for s, n in statuses.items() if selection.only_ok and s != Status.OK}
    rows = sum(statuses.values()) - sum(left_out.values())
    if not rows:
        raise UserError(f"{directory} has no rows to export")
    pictures = None
    if options.reads_images:
        pictures = Pictures(directory, selection.run, images=options.images)
    return PreparedExport(
        selection=selection,
        format=format,
        out=out,
        shard_size=options.shard_size,
        pictures=pictures,
        images=options.images,
        overwrite=options.overwrite,
        rows=rows if limit is None else min(rows, limit),
        left_out=left_out,
    )


def write_export(prepared: PreparedExport) -> ExportResult:
    """Write the export; the file or folder appears when it is complete.

    Raises:
        UserError: the disk is full, a row or all images are not available, or another process has
            written to the folder.
    """
    pictures = prepared.pictures
    try:
        rows, notes = _write(prepared)
    except OSError as error:
        raise UserError(f"cannot write {prepared.out}: {error.strerror or error}") from error
    out, left_out = prepared.out, prepared.left_out
    if prepared.format in ("txt", "llava", "csv") and rows < prepared.rows:
        left_out = {**left_out, "empty": prepared.rows - rows}
    files = sorted(path for path in out.rglob("*") if path.is_file()) if out.is_dir() else [out]
    return ExportResult(
        out=out,
        format=prepared.format,
        rows=rows,
        files=len(files),
        bytes=sum(file.stat().st_size for file in files),
        left_out=left_out,
        lost=pictures.lost if pictures is not None else {},
        notes=(*notes, *(pictures.describe_lost() if pictures is not None else ())),
    )


def _write(prepared: PreparedExport) -> tuple[int, tuple[str, ...]]:
    """Returns the number of rows written, and notes."""
    selection, out = prepared.selection, prepared.out
    if prepared.format == "jsonl":
        return write_jsonl(selection, out), ()
    if prepared.format == "d2s-jsonl":
        return write_released(selection, out), ()
    if prepared.format in ("txt", "llava", "csv", "pairs"):
        return _write_texts(prepared)
    pictures, size, overwrite = prepared.pictures, prepared.shard_size, prepared.overwrite
    if prepared.format == "parquet":
        rows = write_parquet(
            selection, out, shard_size=size, pictures=pictures, overwrite=overwrite
        )
        return rows, ()
    assert pictures is not None
    result = write_tars(selection, out, shard_size=size, pictures=pictures, overwrite=overwrite)
    notes = []
    if result.dropped:
        notes.append(
            f"not in KEY.json, because only some rows have it: {', '.join(result.dropped)}"
        )
    if len(result.kinds) > 1:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in result.kinds.items())
        notes.append(
            f"images of {len(result.kinds)} kinds ({kinds}): WebDataset readers accept any, but "
            "load_dataset of the datasets library needs a single kind"
        )
    return result.samples, tuple(notes)


def _write_texts(prepared: PreparedExport) -> tuple[int, tuple[str, ...]]:
    selection, out = prepared.selection, prepared.out
    if prepared.format == "txt":
        return write_sidecars(selection, out, overwrite=prepared.overwrite)
    if prepared.format == "llava":
        return write_conversations(selection, out)
    if prepared.format == "csv":
        return write_csv(selection, out, images=prepared.images), ()
    return write_pairs(selection, out), ()


def _refuse_unfitting(options: ExportOptions) -> None:
    """UsageError for options that would be ignored."""
    format = options.format
    if format not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}, not {format!r}")
    if options.embed_images and format not in ("parquet", "webdataset"):
        raise UsageError(f"--embed-images cannot be used with --format {format}: use parquet")
    if options.images is not None and not (options.reads_images or format == "csv"):
        more = " without --embed-images" if format == "parquet" else ""
        raise UsageError(
            f"--images cannot be used with --format {format}{more}, which reads no images: omit it"
        )
    sized = format in ("parquet", "webdataset")
    if not sized and options.shard_size != ExportOptions.shard_size:
        raise UsageError(
            f"--shard-size cannot be used with --format {format}, which has no shards: omit it"
        )
    if format == "d2s-jsonl" and options.ids is None:
        raise UsageError(
            "--format d2s-jsonl is read by position: specify the ids file of the split with --ids"
        )
    if format == "d2s-jsonl" and (options.only_ok or options.limit is not None):
        name = "--only-ok" if options.only_ok else "--limit"
        raise UsageError(
            f"{name} cannot be used with --format d2s-jsonl, which has one line per id"
        )


def _refuse_existing(out: Path, *, overwrite: bool, folder: bool) -> None:
    if not out.exists() or (folder and out.is_dir() and not any(out.iterdir())):
        refuse_current_folder(out)
        return
    if not overwrite:
        raise UserError(f"{out} exists: use another --out, or --overwrite to replace it")
    if folder != out.is_dir():
        kind = "folder" if folder else "file"
        raise UserError(f"{out} cannot be replaced by a {kind}: use another --out")
    foreign = next((path for path in out.iterdir() if not _is_ours(path)), None) if folder else None
    if foreign is not None:
        raise UserError(
            f"{out} contains {foreign.name}, which may not be from an export, so it is not "
            "replaced: use another --out"
        )
    if not folder and out.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{out} has the name of an image, so it is not replaced: use another --out")


def _is_ours(path: Path) -> bool:
    """Whether this is certainly from an export. A `.txt` file can be anyone's."""
    try:
        if _PARQUET.fullmatch(path.name):
            return b"d2s.run_id" in (pq.read_schema(path).metadata or {})
        return _TAR.fullmatch(path.name) is not None and _is_own_tar(path)
    except (OSError, ValueError, pa.ArrowException, tarfile.TarError):
        return False


def _is_own_tar(path: Path) -> bool:
    with tarfile.open(path, "r:") as tar:
        first = next((member for member in tar if member.name.endswith(".json")), None)
        file = tar.extractfile(first) if first is not None else None
        about = json.load(file) if file is not None else None
    return isinstance(about, dict) and is_own(about)


def _refuse_images(out: Path, sources: Sequence[Source]) -> None:
    """UserError if `out` is or contains something that the images are read from."""
    place = out.resolve()
    for source in sources:
        options = source.options
        named = [source.root, *options.get("files", ()), *map(options.get, _PLACES)]
        for path in (Path(name) for name in named if name):
            if source.kind == "dataset" and not path.is_absolute():
                continue  # a name of the Hub
            # All files in the folder of a data set are its own.
            inside = source.kind == "dataset" and place.is_relative_to(path.resolve())
            if path.exists() and (inside or path.resolve().is_relative_to(place)):
                raise UserError(
                    f"the images of this run are read from {path}, so {out} is not replaced: use "
                    "another --out"
                )


def _list_sources(selection: Selection, *, images: Path | None) -> list[Source]:
    """Where the run's images were, and where they are now."""
    run = selection.run
    sources = [Source.from_dict(run["source"])] if run.get("source") else []
    if images is not None and images.is_dir():
        sources.append(find_source(run, where=selection.directory, images=images))
    return sources
