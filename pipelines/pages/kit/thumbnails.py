"""From where an image lies to a small JPEG; each way of failing is told beside the row."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from data.dense.run import PLAN_NAME
from data.images import ImageError, Status, decode_image
from data.sources import Source
from data.sources.reader import ImageReader
from pipelines.pages.review.view import Entry, Thumbnail

# Twice the size at which the page shows them, for dense displays.
SIDE = 400
_QUALITY = 78
_PATH = b"path:"


@dataclass(frozen=True)
class Address:
    """Where the image of a row lies; `locator` is the plan's, for a name that says it not all."""

    file_name: str
    locator: bytes | None


def find_addresses(directory: Path, picked: pa.Table) -> list[Address]:
    """The addresses of some rows of a run (sample_id, file_name), from its plan if it has one."""
    ids = picked.column("sample_id").to_pylist()
    names = picked.column("file_name").to_pylist()
    path = directory / PLAN_NAME
    try:
        plan = pq.read_table(
            path,
            columns=["sample_id", "locator"],
            filters=[("sample_id", "in", ids)],
            partitioning=None,
        )
        columns = [plan.column(name).to_pylist() for name in ("sample_id", "locator")]
        locators = dict(zip(*columns, strict=True))
    except (pa.ArrowException, OSError):
        # A run that came without its plan: nearly every name is its own address.
        locators = {}
    return [Address(name, locators.get(key)) for key, name in zip(ids, names, strict=True)]


def add_thumbnails(
    entries: Sequence[Entry],
    addresses: Sequence[Address],
    source: Source,
    *,
    most_bytes: int,
    on_entry: Callable[[int, int], None],
) -> tuple[Entry, ...]:
    """The entries with their pictures, as many as `most_bytes` of JPEG hold, or why they have none.

    Error rows have no picture. `on_entry` gets how many of how many are ready.
    """
    told, left = [], most_bytes
    reader = ImageReader(source)
    for entry, address in zip(entries, addresses, strict=True):
        told.append(_add_thumbnail(entry, address, reader, left) if entry.ok else entry)
        picture = told[-1].picture
        left -= len(picture.content) if picture else 0
        on_entry(len(told), len(entries))
    reader.close()
    return tuple(told)


def _add_thumbnail(entry: Entry, address: Address, reader: ImageReader, left: int) -> Entry:
    full = replace(entry, missing="left out to keep the page small")
    if left <= 0:
        return full
    try:
        thumbnail = load_thumbnail(read_picture(reader, address))
    except ImageError as error:
        return replace(entry, missing=str(error))
    return replace(entry, picture=thumbnail) if len(thumbnail.content) <= left else full


def read_picture(reader: ImageReader, address: Address) -> bytes:
    """The bytes of an image of the run's source.

    Raises:
        ImageError: it is not there, cannot be read, or its name leads out of the images folder.
    """
    place = address.locator
    if place is None:
        place = _PATH + address.file_name.encode()
    if place.startswith(_PATH):
        path = PurePosixPath(place.removeprefix(_PATH).decode("utf-8", "surrogateescape"))
        # Only what lies in the folder goes into a page that is sent around.
        if path.is_absolute() or ".." in path.parts:
            raise ImageError(Status.DECODE_ERROR, "its name leads out of the images folder")
    return reader.read(place)


def load_thumbnail(content: bytes, *, side: int = SIDE) -> Thumbnail:
    """A JPEG no wider and no higher than `side` pixels, without the original's metadata.

    Raises:
        ImageError: `content` is no image, is damaged, or is too large.
    """
    image = decode_image(content)
    image.thumbnail((side, side))
    # Where and by whom a photo was taken is not for the page.
    image.info.clear()
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_QUALITY, optimize=True)
    return Thumbnail(sink.getvalue(), *image.size)
