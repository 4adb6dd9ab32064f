"""Making thumbnails of images; errors are shown next to the row."""

from __future__ import annotations

import io
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import PurePosixPath

from data.escaping import show_name
from data.images import MAX_IMAGE_PIXELS, ImageError, Status, decode_image
from data.sources.reader import ImageReader

# Twice the displayed size, for high-density screens.
SIDE = 400
# Pages are mailed and opened in browsers: 16 MB of JPEG become 21 MB.
MAX_PICTURE_BYTES = 16_000_000
_LEFT_OUT = "omitted to keep the page small"
_QUALITY = 78
_PATH = b"path:"


@dataclass(frozen=True)
class Address:
    """The location of a row's image; `locator` is the plan's, if the name is not enough."""

    file_name: str
    locator: bytes | None


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG, with its size in pixels."""

    content: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Picture:
    """An image on a page; without a thumbnail, `missing` says why."""

    name: str
    thumbnail: Thumbnail | None
    missing: str | None = None


class ThumbnailBudget:
    """The thumbnails of one page, up to a size limit; each image is read once."""

    def __init__(
        self,
        most_bytes: int = MAX_PICTURE_BYTES,
        *,
        side: int = SIDE,
        max_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        self._left, self._side, self._max_pixels = most_bytes, side, max_pixels
        self._seen: dict[Hashable, Thumbnail | str] = {}

    def show(self, name: str, place: Hashable, read: Callable[[], bytes]) -> Picture:
        """The image at `place`; `read` returns its bytes, or raises ImageError."""
        if place not in self._seen:
            self._seen[place] = self._load(read)
        found = self._seen[place]
        if isinstance(found, Thumbnail) and len(found.content) > self._left:
            found = self._seen[place] = _LEFT_OUT
        if isinstance(found, str):
            return Picture(show_name(name), None, found)
        self._left -= len(found.content)
        return Picture(show_name(name), found)

    def _load(self, read: Callable[[], bytes]) -> Thumbnail | str:
        if self._left <= 0:
            return _LEFT_OUT
        try:
            return load_thumbnail(read(), side=self._side, max_pixels=self._max_pixels)
        except ImageError as error:
            return str(error)


def read_picture(reader: ImageReader, address: Address) -> bytes:
    """The bytes of an image in the run's source.

    Raises:
        ImageError: it does not exist, cannot be read, or its name leads out of the image folder.
    """
    return reader.read(find_place(address))


def find_place(address: Address) -> bytes:
    """Where a reader of the source finds an image.

    Raises:
        ImageError: its name leads out of the image folder.
    """
    place = address.locator
    if place is None:
        place = _PATH + address.file_name.encode()
    if place.startswith(_PATH):
        path = PurePosixPath(place.removeprefix(_PATH).decode("utf-8", "surrogateescape"))
        # Pages can be shared, so they only include images from the folder.
        if path.is_absolute() or ".." in path.parts:
            raise ImageError(Status.DECODE_ERROR, "its name leads out of the image folder")
    return place


def load_thumbnail(
    content: bytes, *, side: int = SIDE, max_pixels: int = MAX_IMAGE_PIXELS
) -> Thumbnail:
    """A JPEG of at most `side` x `side` pixels, without the original's metadata.

    Raises:
        ImageError: `content` is not an image, is damaged, or has more than `max_pixels`.
    """
    image = decode_image(content, max_pixels=max_pixels)
    image.thumbnail((side, side))
    # Drop the place and author of a photo.
    image.info.clear()
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_QUALITY, optimize=True)
    return Thumbnail(sink.getvalue(), *image.size)
