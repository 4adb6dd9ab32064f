"""Decoding the bytes of a file to an RGB image; every kind of failure has an error message.

Only Pillow is imported, so that a decoding process starts at once and stays small.
"""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from PIL import ExifTags, Image

from data.errors import one_line
from data.files.formats import (
    FORMATS,
    describe_bytes,
    drop_metadata,
    find_orientation,
    read_orientation,
)

# 100 megapixels are 300 MB as RGB. Larger pictures exist, and so do files made to exhaust memory.
MAX_IMAGE_PIXELS = 100_000_000
MAX_FILE_BYTES = 512 * 1024 * 1024
_WHITE = (255, 255, 255, 255)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The largest gray value for each common bit depth: a mask, 8 to 16 bits.
_DEPTHS = (1, 255, 1023, 4095, 16383, 65535)
# Accepted ranges of floats: values outside of them could be anything (meters, nits).
_FLOAT_RANGES = [(1 / 16, 1), (127.5, 255), (32767.5, 65535)]
# Tolerance for the overshoot of sharpening and resampling.
_OVERSHOOT = 0.1


class Status(StrEnum):
    """The `status` column."""

    OK = "ok"
    DECODE_ERROR = "decode_error"
    TOO_LARGE = "too_large"
    ENGINE_ERROR = "engine_error"


class ImageError(Exception):
    """An image that cannot be captioned: `status` for the row, the text for its `error`."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_file(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: missing, unreadable, empty, over MAX_FILE_BYTES, or not a regular file.
    """
    try:
        # O_NONBLOCK: opening a named pipe must not wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise ImageError(Status.DECODE_ERROR, "not a regular file")
            if info.st_size > MAX_FILE_BYTES:
                raise ImageError(
                    Status.TOO_LARGE, f"{info.st_size:,} bytes; the limit is {MAX_FILE_BYTES:,}"
                )
            content = file.read()
    except FileNotFoundError as error:
        raise ImageError(Status.DECODE_ERROR, "the file does not exist") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot be read: {reason}"
        raise ImageError(Status.DECODE_ERROR, message) from error
    if not content:
        raise ImageError(Status.DECODE_ERROR, "the file is empty")
    return content


def decode_image(
    content: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS, side: int | None = None
) -> Image.Image:
    """The first frame as 8-bit RGB, upright by its EXIF orientation, transparency on white.

    The size is read from the header and compared before a pixel is decoded.

    Args:
        side: for callers that shrink the image anyway: a JPEG is decoded at a half, a quarter or an
            eighth of its size if its shorter side keeps this many pixels, which is much faster.

    Raises:
        ImageError: not an image, damaged, cut off, or more than `max_pixels`.
    """
    try:
        return _decode(content, max_pixels, side, orientation=None)
    except ImageError as error:
        bare = drop_metadata(content) if error.status is Status.DECODE_ERROR else None
        if bare is None:
            raise
        try:
            # If only the metadata are broken, or too large for Pillow, the pixels are intact.
            return _decode(bare[0], max_pixels, side, orientation=bare[1])
        except ImageError:
            raise error from None


def _decode(
    content: bytes, max_pixels: int, side: int | None, *, orientation: int | None
) -> Image.Image:
    with _explain(content), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _refuse_large(image, max_pixels)
        if side is not None and image.format == "JPEG":
            share = side / min(image.size)
            image.draft(None, (int(image.width * share), int(image.height * share)))
        if image.format in ("JPEG", "MPO") and "exif" not in image.info:
            orientation = orientation or find_orientation(content)
        return to_rgb(image, max_pixels=max_pixels, orientation=orientation)


def to_rgb(
    image: Image.Image, *, max_pixels: int = MAX_IMAGE_PIXELS, orientation: int | None = None
) -> Image.Image:
    """Convert an image opened by Pillow, as in `decode_image`; `orientation` overrides its own.

    Raises:
        ImageError: damaged, truncated, with an unknown range of gray, or larger than `max_pixels`.
    """
    with _explain():
        _refuse_large(image, max_pixels)
        deep = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
        image.load()
        if deep and image.mode in {"RGB", "RGBA", "LA"}:
            _refuse_low(image)
        turn = _TURNS.get(orientation or _find_orientation(image) or 1)
        return _to_rgb(image if turn is None else image.transpose(turn))


def _refuse_large(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            Status.TOO_LARGE, f"{width:,} x {height:,} pixels; the limit is {max_pixels:,}"
        )


@contextlib.contextmanager
def _explain(content: bytes | None = None) -> Iterator[None]:
    """Turn any exception of Pillow into an ImageError; `content` is its input."""
    with warnings.catch_warnings():
        # Pillow warns about odd metadata; only the pixels matter.
        warnings.simplefilter("ignore")
        try:
            yield
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(Status.TOO_LARGE, str(error)) from error
        except Image.UnidentifiedImageError as error:
            what = f": {describe_bytes(content)}" if content is not None else ""
            message = f"not an image in a known format{what}"
            raise ImageError(Status.DECODE_ERROR, message) from error
        except MemoryError as error:
            raise ImageError(Status.TOO_LARGE, "decoding it needs too much memory") from error
        except Exception as error:
            # Pillow's decoders can raise anything; each image must become a row.
            reason = one_line(error)
            raise ImageError(Status.DECODE_ERROR, f"damaged: {reason}") from error


def check_header(path: Path, *, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """Check only the header of a file; the rest may still be damaged.

    Raises:
        ImageError: not a file, not an image, or more than `max_pixels`.
    """
    try:
        if path.is_file():
            with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
                warnings.simplefilter("ignore")
                _refuse_large(image, max_pixels)
            return
    except ImageError:
        raise
    except Exception:
        # Its metadata may be at fault; decoding finds out, and says what the file is if it is not
        # an image.
        decode_image(read_file(path), max_pixels=max_pixels)
        return
    read_file(path)


def lift_pillow_limit() -> None:
    """Turn off Pillow's own, process-wide limit: `decode_image` has one, with a clearer message."""
    Image.MAX_IMAGE_PIXELS = None


def _find_orientation(image: Image.Image) -> int | None:
    exif = image.info.get("exif")
    found = read_orientation(exif) if isinstance(exif, bytes) else None
    try:
        # Pillow reads more places (XMP, TIFF's own tags), and fails on other tags.
        return found or image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # Unreadable metadata says nothing about the orientation: use the image as stored.
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_grey(image).convert("RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if image.readonly == 0 else image.copy()
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        shown = image.convert("RGBA")
        if shown.getchannel("A").getextrema() == (0, 0):
            # The image would be invisible: a renderer or converter left the channel empty.
            return shown.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", shown.size, _WHITE), shown).convert("RGB")
    return image.convert("RGB")


def _refuse_low(image: Image.Image) -> None:
    """Refuse 16-bit colors that only use low bits: Pillow keeps the upper 8, which are empty."""
    bands = image.split()[: 1 if image.mode == "LA" else 3]
    # The histogram of a band has 256 counts.
    highest = max(level for band in bands for level, count in enumerate(band.histogram()) if count)
    if highest < _DEPTHS[-2] >> 8:
        used = highest.bit_length() + 8
        raise _refuse_range(f"its colours use the lower {used} of 16 bits")


def _scale_grey(image: Image.Image) -> Image.Image:
    """Convert gray of more than 8 bits to 8; Pillow's conversion clips, giving a white image.

    Integers have the smallest common depth that fits them (12 bits are stored in 16); floats range
    from 0 to 1, 255 or 65535. NaN pixels become black.

    Raises:
        ImageError: values of no such range.
    """
    # Few images need it, and it would be most of a decoding process's memory.
    import numpy as np

    values = np.asarray(image, np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise _refuse_range("none of its pixel values is a number")
    low, high = float(finite.min(initial=0.0)), float(finite.max(initial=0.0))
    floats = image.mode == "F"
    slack = _OVERSHOOT if floats else 0.0
    ranges = _FLOAT_RANGES if floats and high else [(0.0, top) for top in _DEPTHS]
    fitting = (top for least, top in ranges if least <= high <= top * (1 + slack))
    top = next(fitting, None)
    if top is None or low < -top * slack:
        raise _refuse_range(f"its gray values range from {low:g} to {high:g}")
    scaled = np.nan_to_num(values, nan=0.0, posinf=top, neginf=0.0) / top
    eight = np.rint(np.clip(scaled, 0.0, 1.0) * 255).astype(np.uint8)
    # Pillow only inverts 8-bit negatives.
    negative = getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0
    return Image.fromarray(255 - eight if negative else eight)


def _refuse_range(what: str) -> ImageError:
    return ImageError(
        Status.DECODE_ERROR, f"{what}, which is not a known range: save it with 8 bits per channel"
    )
