"""The source of a run's images, its record in run.json, and checks that it is unchanged."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from captioner.settings.growth import arrange_files
from captioner.store.plan import read_about
from data.dense.run import PLAN_NAME
from data.errors import UserError
from data.files.hashes import hash_file
from data.matching import tie
from data.sources import ImageRecord, Listing, Source
from data.sources.dataset import PREFIX, refuse_inside
from data.sources.opening import SourceOptions, list_source, open_source
from data.sources.record import find_below
from data.sources.records import Records
from data.sparse.captions import list_caption_files, read_captions

# Source options that may differ between sessions of a run, and those that are paths.
_MAY_DIFFER = {"fetch"}
_PATHS = {"list", "annotations", "files", "name"}


def name_out(images: Path | str) -> Path:
    """`dense/<name of the images>`, the default output folder; a symbolic link has its own name."""
    path = Path(str(images).removeprefix(PREFIX))
    # Not resolve(): the user finds the run under the name that was given.
    given = Path(os.path.abspath(path)) if path.exists() else path
    stem = given.name if given.is_dir() else given.name.split(".")[0]
    safe = "".join(sign for sign in stem if sign not in "*?[]{}").strip(".-_ ")
    return Path("dense") / (safe or "images")


def find_recorded_source(runs: Mapping[Path, Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """The source of an existing run; `runs` has the run.json of each text by folder.

    The plan also has it, and is written first when a run grows.
    """
    found = [run.get("source") for run in runs.values() if run]
    planned = [folder for folder, run in runs.items() if run and (folder / PLAN_NAME).is_file()]
    found += [(read_about(folder) or {}).get("source") for folder in planned]
    known = [source for source in found if source]
    return max(known, key=lambda source: len(source["options"].get("files", ())), default=None)


def open_run_source(
    images: Path | str,
    options: SourceOptions,
    *,
    directory: Path,
    recorded: Mapping[str, Any] | None,
) -> tuple[Source, Source]:
    """The source of the images: as recorded in the run, and as it is now.

    They only differ if image files were added since. `recorded` is the run's.

    Raises:
        UserError: there is no such source, or the existing run has another one.
    """
    if recorded is not None and str(images) == f"{PREFIX}{recorded['options'].get('name')}":
        # The Hub may have a newer revision; the plan's rows belong to the recorded one.
        options = replace(options, revision=recorded["options"].get("revision"))
    refuse_inside(images, directory)
    source = open_source(str(images), options)
    if source.kind == "folder" and directory.resolve() == Path(source.root).resolve():
        raise UserError(f"--out is the image folder {images} itself: use another --out")
    if recorded is None:
        return source, source
    before = Source.from_dict(recorded)
    if before.kind != source.kind:
        raise UserError(
            f"{directory} contains a run of another source: {before.kind} there and {source.kind} "
            "here. Use another --out"
        )
    known = whole = source
    try:
        if "files" in source.options:
            known, whole = arrange_files(source, before)
        elif before.options.get("stamps") != source.options.get("stamps"):
            raise ValueError("its files' names, sizes or contents differ")
    except ValueError as error:
        raise UserError(
            f"{images} has changed since the run in {directory} began ({error}), and its rows are "
            "found by position: restore it, or use another --out"
        ) from error
    _refuse_other_options(directory, before, known)
    return known, whole


def _refuse_other_options(directory: Path, before: Source, source: Source) -> None:
    for name in sorted(before.options.keys() | source.options.keys()):
        there, here = before.options.get(name), source.options.get(name)
        if name in _MAY_DIFFER or there == here or (name in _PATHS and _has_moved(there, here)):
            continue
        if name == "pattern" and before.root != source.root:
            # In another folder, which is checked separately.
            continue
        raise UserError(
            f"{directory} contains a run of another source: {name} is {_shorten(there)} there "
            f"and {_shorten(here)} here. Use another --out"
        )


def _has_moved(there: Any, here: Any) -> bool:
    """Whether files with the same names have moved, or are accessed through a link."""
    before, now = ([value] if isinstance(value, str) else value or [] for value in (there, here))
    pairs = [(Path(first), Path(second)) for first, second in zip(before, now, strict=False)]
    same = len(before) == len(now) and all(first.name == second.name for first, second in pairs)
    # A name on the Hub is not a path.
    return same and all(
        first.is_absolute() and (not first.exists() or first.resolve() == second.resolve())
        for first, second in pairs
    )


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def list_run_source(
    source: Source, options: SourceOptions, *, captions: Path | None, exclude: Path
) -> Listing:
    """The images of a source, with human captions from a separate file, if one is given.

    Raises:
        UserError: the images cannot be listed, or no caption matches any of them.
    """
    listing = list_source(source, options, exclude=[exclude])
    return listing if captions is None else _attach(listing, captions)


def hash_captions(path: Path) -> str:
    """One hash of a captions file, or of a folder of them."""
    try:
        return ",".join(hash_file(file) for file in list_caption_files(path))
    except OSError as error:
        raise UserError(f"the captions {path} cannot be read: {error.strerror}") from error


def describe_images(images: Path | str, source: Source) -> dict[str, str | None]:
    """The images' folder: absolute, and relative to the current folder if it is below it.

    `images` is None if the images are not files in a folder; `images_given` is what was typed.
    """
    if source.kind not in ("folder", "files"):
        return {"images": None, "images_relative": None, "images_given": str(images)}
    below = find_below(Path(source.root))
    relative = None if below is None else below.as_posix()
    return {"images": source.root, "images_relative": relative, "images_given": str(images)}


def refuse_other_images(
    directory: Path, previous: Mapping[str, Any], named: Mapping[str, str | None], *, missing: int
) -> None:
    """UserError if the run in `directory` has other images, unless their folder was moved.

    `missing` counts the run's images that are not in the source now.
    """
    if named["images"] is None and previous.get("source"):
        # Not a folder: `open_run_source` has compared everything.
        return
    key = "images" if named["images"] is not None else "images_given"
    if not previous.get("images_given"):
        # After a repair, or an import without images, only the plan is known.
        return
    before, now = str(previous.get(key)), str(named[key])
    # `--images .` in two folders is not a move: the images of the first still exist.
    gone, relative = not Path(before).exists(), named["images_relative"]
    as_whole = relative is not None and previous.get("images_relative") == relative
    moved = gone and (as_whole or not missing)
    if before == now or os.path.realpath(before) == os.path.realpath(now) or moved:
        return
    counted = f" ({missing:,} of its images are missing)" if missing else ""
    raise UserError(
        f"{directory} contains a run with other settings: images is {before} there and "
        f"{now} here{counted}. Use another --out, or the settings of that run"
    )


def _attach(listing: Listing, path: Path) -> Listing:
    """Attach human captions, ids and splits by file name."""
    found = read_captions(path)
    names = [record.file_name for record in listing.records]
    ties = tie(names, [image.file_name for image in found.images])

    def attach(record: ImageRecord, row: int | None) -> ImageRecord:
        if row is None:
            return record
        image = found.images[row]
        return replace(
            record,
            captions=image.captions,
            split=record.split or image.split or None,
            image_id=record.image_id or image.image_id,
        )

    count = len(names) - ties.rows.count(None)
    if not count:
        raise UserError(
            f"no caption of {path} belongs to one of the images ({found.images[0].file_name} "
            f"there, {names[0]} here): folders must match, so specify the folder that the names "
            "are relative to with --images"
        )
    records = Records.collect(map(attach, listing.records, ties.rows))
    note = f"{count:,} of {len(names):,} images have human captions in {path}"
    return replace(
        listing, records=records, notes=(*listing.notes, note, *found.notes, *ties.notes)
    )
