"""From the bytes of a file to an RGB image, with every way of failing named.

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

# The plugins are imported one by one: Image.init() would load every format there is.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from data.errors import one_line

# 100 megapixels are 300 MB as RGB. Larger pictures exist, and so do files made to exhaust memory.
MAX_IMAGE_PIXELS = 100_000_000
MAX_FILE_BYTES = 512 * 1024 * 1024
# Named, because Pillow knows formats that start other programs (EPS) or hold many images.
_PLUGINS = (
    JpegImagePlugin.JpegImageFile,
    MpoImagePlugin.MpoImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    PpmImagePlugin.PpmImageFile,
    AvifImagePlugin.AvifImageFile,
)
_FORMATS = tuple(plugin.format for plugin in _PLUGINS if plugin.format in Image.OPEN)
_WHITE = (255, 255, 255, 255)


class Status(StrEnum):
    """The `status` column."""

    OK = "ok"
    DECODE_ERROR = "decode_error"
    TOO_LARGE = "too_large"
    ENGINE_ERROR = "engine_error"


class ImageError(Exception):
    """An image that cannot be captioned: `status` for the row, the text for its `error`.

    `reached` is False where its bytes could not be had at all: it may be the image's fault, or that
    of a disk or a network that is gone.
    """

    def __init__(self, status: Status, message: str, *, reached: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.reached = reached


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
                    Status.TOO_LARGE, f"{info.st_size:,} bytes, over the {MAX_FILE_BYTES:,} allowed"
                )
            content = file.read()
    except FileNotFoundError as error:
        raise ImageError(Status.DECODE_ERROR, "the file is not there", reached=False) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot be read: {reason}"
        raise ImageError(Status.DECODE_ERROR, message, reached=False) from error
    if not content:
        raise ImageError(Status.DECODE_ERROR, "the file is empty")
    return content


def decode_image(
    content: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS, side: int | None = None
) -> Image.Image:
    """The first frame as 8-bit RGB, upright by its EXIF orientation, transparency on white.

    The size is read from the header and compared before a pixel is decoded.

    Args:
        side: for who makes the image small anyway: a JPEG is decoded at a half, a quarter or an
            eighth of its size if its shorter side keeps so many pixels, which is much faster.

    Raises:
        ImageError: not an image, damaged, cut off, or more than `max_pixels`.
    """
    with _explain(), Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        _refuse_large(image, max_pixels)
        if side is not None and image.format == "JPEG":
            share = side / min(image.size)
            image.draft(None, (int(image.width * share), int(image.height * share)))
        return to_rgb(image, max_pixels=max_pixels)


def to_rgb(image: Image.Image, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """An image that Pillow opened, as `decode_image` gives it.

    Raises:
        ImageError: damaged, cut off, or more than `max_pixels`.
    """
    with _explain():
        _refuse_large(image, max_pixels)
        image.load()
        return _to_rgb(_upright(image))


def _refuse_large(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            Status.TOO_LARGE, f"{width:,} x {height:,} pixels, over the {max_pixels:,} allowed"
        )


@contextlib.contextmanager
def _explain() -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError."""
    with warnings.catch_warnings():
        # Pillow warns about odd metadata; what matters is whether the pixels can be had.
        warnings.simplefilter("ignore")
        try:
            yield
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(Status.TOO_LARGE, str(error)) from error
        except Image.UnidentifiedImageError as error:
            raise ImageError(Status.DECODE_ERROR, "not an image in a known format") from error
        except MemoryError as error:
            raise ImageError(Status.TOO_LARGE, "decoding it needs too much memory") from error
        except Exception as error:
            # Pillow's decoders raise whatever their input makes them raise; one image, one row.
            reason = one_line(error)
            raise ImageError(Status.DECODE_ERROR, f"damaged: {reason}") from error


def check_header(path: Path, *, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """Look at the first bytes of a file alone: the rest may still be damaged or missing.

    Raises:
        ImageError: not a file, not an image, or more than `max_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if not path.is_file():
                raise ImageError(Status.DECODE_ERROR, "not a regular file")
            with Image.open(path, formats=_FORMATS) as image:
                width, height = image.size
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(Status.TOO_LARGE, str(error)) from error
        except Exception as error:
            reason = one_line(error)
            raise ImageError(Status.DECODE_ERROR, f"damaged: {reason}") from error
    if width * height > max_pixels:
        raise ImageError(
            Status.TOO_LARGE, f"{width:,} x {height:,} pixels, over the {max_pixels:,} allowed"
        )


def lift_pillow_limit() -> None:
    """Turn off Pillow's own, process-wide limit: `decode_image` has one, with a clearer message."""
    Image.MAX_IMAGE_PIXELS = None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Unreadable metadata says nothing about the orientation: take the image as it lies.
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if image.readonly == 0 else image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_grey(image).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, _WHITE), shown).convert("RGB")
    return image.convert("RGB")


def _scale_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits to 8: Pillow's own conversion clips it, which leaves a white image."""
    wide = image.convert("F")
    _, high = wide.getextrema()
    assert isinstance(high, float)
    top = next((known for known in (1.0, 255.0, 65535.0) if high <= known), high)
    if image.mode.startswith("I;16"):
        top = 65535.0
    return wide.point(lambda value: value * (255.0 / top) + 0.0).convert("L")
