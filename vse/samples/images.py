"""Sources of pixels: image files decoded at each access, or an array on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import nn

from data.environment import count_cores
from data.errors import UserError
from data.files.atomic import write_json
from data.images import ImageError, decode_image, read_file, to_rgb
from vse.samples.arrays import map_array, new_array
from vse.samples.augmentation import WHOLE, Crop

_CHANNELS = ((), (3,), (4,))


class Pixels(Protocol):
    """Images by index, cropped and resized to a square."""

    px: int

    def __len__(self) -> int: ...
    def read(self, index: int, crop: Crop = WHOLE) -> np.ndarray:
        """(px, px, 3) uint8."""
        ...


# An image in any form: a Pillow image, a file's path or bytes, or pixels, uint8 of
# shape (H, W), (H, W, 3) or (H, W, 4).
AnyImage = Image.Image | str | Path | bytes | np.ndarray


class ImageList:
    """Images in memory or in files; files are decoded at every access."""

    def __init__(self, images: Sequence[AnyImage], *, px: int, antialias: bool = True) -> None:
        """`antialias`: see `resize`."""
        self.images = images
        self.px = px
        self.antialias = antialias

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, crop: Crop = WHOLE) -> np.ndarray:
        side = needed_side(crop, self.px) if self.antialias else None
        image = open_image(self.images[index], where=f"image {index}", side=side)
        return resize(np.asarray(image), crop, self.px, antialias=self.antialias)


class LenientImages(ImageList):
    """Images that may be broken: these are black, and `broken` has the reasons by index."""

    def __init__(self, paths: Sequence[Path], *, px: int, antialias: bool = True) -> None:
        super().__init__(paths, px=px, antialias=antialias)
        self.broken: dict[int, str] = {}

    def read(self, index: int, crop: Crop = WHOLE) -> np.ndarray:
        try:
            return super().read(index, crop)
        except UserError as error:
            # Without the advice for a run that has to stop.
            self.broken[index] = str(error.__cause__)
            return np.zeros((self.px, self.px, 3), dtype=np.uint8)


class ImageCache:
    """Reads from (N, px, px, 3) uint8, memory-mapped, so that no image is decoded twice.

    Crops are enlarged from the resized image, and therefore softer than those of the original.
    """

    def __init__(self, array: np.ndarray, *, antialias: bool = True) -> None:
        self.array = array
        self.px = array.shape[1]
        self.antialias = antialias

    def __len__(self) -> int:
        return len(self.array)

    def read(self, index: int, crop: Crop = WHOLE) -> np.ndarray:
        pixels = self.array[index]
        if crop == WHOLE:
            return np.asarray(pixels)
        return resize(pixels, crop, self.px, antialias=self.antialias)


def cache_images(
    paths: Sequence[Path],
    *,
    px: int,
    folder: Path,
    antialias: bool = True,
    report: Callable[[int, int], None] | None = None,
) -> ImageCache:
    """Resize every image once; the array is cached in `folder` for later runs.

    Args:
        report: called with (done, total) now and then.

    Raises:
        UserError: an image that cannot be read, named; the disk is full.
    """
    images = ImageList(paths, px=px, antialias=antialias)
    way = "" if antialias else " cut"
    target = folder / f"images-{px}-{_hash_files(f'2 {px}{way}', paths)}.npy"
    if not target.is_file():
        shape = (len(paths), px, px, 3)
        with new_array(target, shape=shape, dtype=np.uint8) as array:
            for index in range(len(paths)):
                array[index] = images.read(index)
                if report is not None and (index % 64 == 0 or index + 1 == len(paths)):
                    report(index + 1, len(paths))
    return ImageCache(map_array(target), antialias=antialias)


def find_broken(
    paths: Sequence[Path], *, folder: Path, report: Callable[[int, int], None], again: bool
) -> dict[int, str]:
    """Errors, by index, of the images that cannot be decoded completely.

    Threads decode each image once; the result is cached in `folder` for later runs.

    Args:
        again: check cached errors, which can pass without a change of the file: permissions, disks.
    """
    target = folder / f"broken-{_hash_files('1', paths)}.json"
    indices: Sequence[int] = range(len(paths))
    known: dict[int, str] | None = None
    if target.is_file():
        stored = json.loads(target.read_text(encoding="utf-8"))
        known = {int(index): fault for index, fault in stored.items()}
        if not again:
            return known
        indices = list(known)
    found = _find_faults(paths, indices, report)
    if found != known:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(target, {str(index): fault for index, fault in found.items()})
    return found


def _find_faults(
    paths: Sequence[Path], indices: Sequence[int], report: Callable[[int, int], None]
) -> dict[int, str]:
    found: dict[int, str] = {}
    with ThreadPoolExecutor(count_cores()) as pool:
        for start in range(0, len(indices), 256):
            block = indices[start : start + 256]
            faults = pool.map(_find_fault, [paths[index] for index in block])
            found |= {i: fault for i, fault in zip(block, faults, strict=True) if fault}
            report(start + len(block), len(indices))
    return found


def _find_fault(path: Path) -> str:
    try:
        # Decoding a JPEG at an eighth of its size also reads it to the end, and is much faster.
        decode_image(read_file(path), side=1)
    except ImageError as error:
        return str(error)
    return ""


def _hash_files(settings: str, paths: Sequence[Path]) -> str:
    """A hash that changes if any of the files changes."""
    key = hashlib.sha256(settings.encode())
    for path in paths:
        key.update(os.fsencode(f"{path.resolve()}\n{stamp(path)}\n"))
    return key.hexdigest()[:16]


def open_image(image: AnyImage, *, where: str, side: int | None = None) -> Image.Image:
    """Open an image in any form as RGB, upright, with transparency on white.

    Args:
        side: minimum number of pixels of the shorter side, see `data.images.decode_image`.

    Raises:
        UserError: it cannot be read or has another type; `where` names it if it has no name.
    """
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise UserError(f"{where} is a URL ({image}): download it and pass its bytes or a file")
    if isinstance(image, str | Path):
        return decode(Path(image), side=side)
    if isinstance(image, np.ndarray):
        image = _from_array(image, where)
    if not isinstance(image, bytes | Image.Image):
        raise UserError(
            f"{where} is a {type(image).__name__}: pass a Pillow image, a path, the bytes of a "
            "file, or an array"
        )
    try:
        if isinstance(image, bytes):
            return decode_image(image, side=side)
        return to_rgb(image)
    except ImageError as error:
        raise UserError(f"{where} cannot be read ({error}): replace or remove it") from error


def _from_array(pixels: np.ndarray, where: str) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in _CHANNELS:
        raise UserError(
            f"{where} is an array of {pixels.dtype} {pixels.shape}: it must be uint8 of shape "
            "(H, W), (H, W, 3) or (H, W, 4)"
        )
    return Image.fromarray(pixels)


def decode(path: Path, *, side: int | None = None) -> Image.Image:
    """An image file as RGB.

    Raises:
        UserError: it cannot be read; names it.
    """
    try:
        return decode_image(read_file(path), side=side)
    except ImageError as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}): replace it with an intact copy"
        ) from error


def needed_side(crop: Crop, px: int) -> int:
    """Required pixels of the image's shorter side: the crop has at least twice the final size.

    Reduced sizes of a JPEG are averages of its pixels, so larger ones would make no difference.
    """
    left, _, right, _ = crop.box
    return math.ceil(2 * px / (right - left))


def resize(pixels: np.ndarray, crop: Crop, px: int, *, antialias: bool = True) -> np.ndarray:
    """Cut `crop` out of (H, W, 3) uint8, to whole pixels, and stretch it to (px, px, 3).

    Bilinear; the aspect ratio is not kept. The values equal Pillow's up to one level of rounding,
    in a sixth of the time. Without `antialias` they are those of cv2.resize (linear), which only
    reads four pixels for each output pixel.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = crop.box
    x, y = min(round(left * width), width - 1), min(round(top * height), height - 1)
    beyond_x, beyond_y = max(x + 1, round(right * width)), max(y + 1, round(bottom * height))
    # A copy has contiguous rows, for which PyTorch is fastest.
    part = pixels[None, y:beyond_y, x:beyond_x].copy()
    source = torch.from_numpy(part).permute(0, 3, 1, 2)
    # Without antialiasing, PyTorch interpolates bytes with coarser steps than OpenCV.
    source = source if antialias else source.float()
    stretched = nn.functional.interpolate(
        source, size=(px, px), mode="bilinear", antialias=antialias
    )
    stretched = stretched if antialias else stretched.round().to(torch.uint8)
    if crop.mirror:
        stretched = stretched.flip(3)
    return stretched.permute(0, 2, 3, 1)[0].contiguous().numpy()


def stamp(path: Path) -> str:
    """The size and time of a file, which change with it."""
    info = path.stat()
    return f"{info.st_size} {info.st_mtime_ns}"
