"""Reading run.json of a captioning run, and finding the run's images."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.errors import UserError, first_line
from data.images import MAX_IMAGE_PIXELS
from data.sources import Source
from data.sources.record import find_loss

RUN_NAME = "run.json"
PLAN_NAME = "plan.parquet"
_REPAIR = "`d2s verify --repair` rewrites it from plan and shards"


def read_run(directory: Path) -> dict[str, Any]:
    """Read run.json of a captioning run.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    path = directory / RUN_NAME
    if not path.is_file():
        lost = (directory / PLAN_NAME).is_file()
        advice = _REPAIR if lost else "use a folder that `d2s caption` wrote"
        if inside := sorted(directory.glob(f"*/{RUN_NAME}")):
            advice = f"it holds several; use the folder of one, such as {inside[0].parent}"
        raise UserError(
            f"{directory} is not the folder of a captioning run (it has no {RUN_NAME}): {advice}"
        )
    try:
        run = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({first_line(error)}): {_REPAIR}") from error
    if not isinstance(run, dict):
        raise UserError(f"{path} is damaged (it is not a JSON object): {_REPAIR}")
    return run


def find_source(run: Mapping[str, Any], *, where: Path, images: Path | None) -> Source:
    """The source of a run's images: `images`, or the recorded one. Its existence is not checked.

    Raises:
        UserError: no source is recorded or given, or `images` is not a folder.
    """
    if images is not None:
        if not images.is_dir():
            raise UserError(f"the image folder {images} does not exist: specify it with --images")
        return _find_in(images, run)
    relative = run.get("images_relative")
    if run.get("source"):
        source = Source.from_dict(run["source"])
        moved = source.root and not Path(source.root).is_dir() and relative
        return replace(source, root=str(relative)) if moved else source
    places = [str(place) for place in (run.get("images"), relative) if place]
    if not places:
        raise UserError(
            f"{where} does not record where its images are: specify their folder with --images"
        )
    return Source("folder", next((place for place in places if Path(place).is_dir()), places[0]))


def require_source(run: Mapping[str, Any], *, where: Path, images: Path | None) -> Source:
    """`find_source`, with a check that it exists.

    Raises:
        UserError: no source is recorded, or it does not exist.
    """
    source = find_source(run, where=where, images=images)
    lost = find_loss(source)
    if lost is not None:
        raise UserError(
            f"the images of {where} are no longer there ({lost}): specify their folder with "
            "--images"
        )
    return source


def find_pixel_limit(run: Mapping[str, Any]) -> int:
    """The most pixels of an image of the run: its own limit, or the usual one if that is higher."""
    found: Any = run
    for part in ("settings", "preprocessing", "max_image_pixels"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return max(MAX_IMAGE_PIXELS, found) if isinstance(found, int) else MAX_IMAGE_PIXELS


def _find_in(images: Path, run: Mapping[str, Any]) -> Source:
    """The run's source in another folder: its archives, tables or data set there, or its images."""
    recorded = run.get("source")
    if recorded is not None and recorded["kind"] == "dataset":
        source = Source.from_dict(recorded)
        return replace(source, options={**source.options, "name": str(images.resolve())})
    if recorded is None or "files" not in recorded["options"]:
        return Source("folder", str(images))
    source = Source.from_dict(recorded)
    files = _find_files(images, source.options["files"])
    return replace(source, root=str(images), options={**source.options, "files": files})


def _find_files(images: Path, recorded: Sequence[str]) -> list[str]:
    """Files in another folder: below it as before, if they are there, or else directly in it."""
    common = os.path.commonpath([os.path.dirname(name) for name in recorded])
    below = [images / os.path.relpath(name, common) for name in recorded]
    return [str(path if path.is_file() else images / path.name) for path in below]
