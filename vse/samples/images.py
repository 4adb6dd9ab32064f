"""Where pixels come from: image files decoded each time, or one array of resized images on disk."""

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


# An image as people have it: opened by Pillow, a file's path or bytes, or its pixels, uint8 of
# shape (H, W), (H, W, 3) or (H, W, 4).
AnyImage = Image.Image | str | Path | bytes | np.ndarray


class ImageList:
    """Images in memory or in files; a file is decoded every time it is asked for."""

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
    """Of which some may be broken: those read black, and `broken` says by index what is wrong."""

    def __init__(self, paths: Sequence[Path], *, px: int, antialias: bool = True) -> None:
        super().__init__(paths, px=px, antialias=antialias)
        self.broken: dict[int, str] = {}

    def read(self, index: int, crop: Crop = WHOLE) -> np.ndarray:
        try:
            return super().read(index, crop)
        except UserError as error:
            # Without the advice that goes with it where a run has to stop.
            self.broken[index] = str(error.__cause__)
            return np.zeros((self.px, self.px, 3), dtype=np.uint8)


class ImageCache:
    """Reads from (N, px, px, 3) uint8, mapped from disk, so that no image is decoded twice.

    A crop is enlarged from the resized image, which is softer than one from the original.
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
    """Resize every image once; a later run over the same files finds the array in `folder`.

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
    paths: Sequence[Path], *, folder: Path, report: Callable[[int, int], None]
) -> dict[int, str]:
    """By index what is wrong with the images that cannot be decoded to their last pixel.

    Threads decode each image once; a later run over the same files finds the answer in `folder`.
    """
    target = folder / f"broken-{_hash_files('1', paths)}.json"
    if not target.is_file():
        found: dict[int, str] = {}
        with ThreadPoolExecutor(count_cores()) as pool:
            for start in range(0, len(paths), 256):
                faults = pool.map(_find_fault, paths[start : start + 256])
                found |= {index: fault for index, fault in enumerate(faults, start) if fault}
                report(min(start + 256, len(paths)), len(paths))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(target, {str(index): fault for index, fault in found.items()})
    known = json.loads(target.read_text(encoding="utf-8"))
    return {int(index): fault for index, fault in known.items()}


def _find_fault(path: Path) -> str:
    try:
        # A JPEG at an eighth of its size is read to its end, too, and much faster.
        decode_image(read_file(path), side=1)
    except ImageError as error:
        return str(error)
    return ""


def _hash_files(settings: str, paths: Sequence[Path]) -> str:
    """Another one as soon as one of the files is another."""
    key = hashlib.sha256(settings.encode())
    for path in paths:
        key.update(os.fsencode(f"{path.resolve()}\n{stamp(path)}\n"))
    return key.hexdigest()[:16]


def open_image(image: AnyImage, *, where: str, side: int | None = None) -> Image.Image:
    """RGB, upright, transparency on white, however the image is given.

    Args:
        side: how many pixels the shorter side needs at least, see `data.images.decode_image`.

    Raises:
        UserError: it cannot be read, or is nothing of the kind; `where` names it if it has no name.
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
    """Pixels of the whole image's shorter side: the crop gets at least twice as many as are left.

    Half sizes of a JPEG are means of its pixels, so that no more of it would be seen.
    """
    left, _, right, _ = crop.box
    return math.ceil(2 * px / (right - left))


def resize(pixels: np.ndarray, crop: Crop, px: int, *, antialias: bool = True) -> np.ndarray:
    """Cut `crop` out of (H, W, 3) uint8, to whole pixels, and stretch it to (px, px, 3).

    Bilinear; the aspect is not kept. The values are those of Pillow, up to one level by rounding,
    in a sixth of its time; without `antialias` those of cv2.resize (linear), which reads no more
    than four pixels for each that it makes.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = crop.box
    x, y = min(round(left * width), width - 1), min(round(top * height), height - 1)
    beyond_x, beyond_y = max(x + 1, round(right * width)), max(y + 1, round(bottom * height))
    # With a copy the rows lie close together, for which PyTorch is fastest.
    part = pixels[None, y:beyond_y, x:beyond_x].copy()
    source = torch.from_numpy(part).permute(0, 3, 1, 2)
    # Of bytes PyTorch makes coarser steps than OpenCV where nothing is antialiased.
    source = source if antialias else source.float()
    stretched = nn.functional.interpolate(
        source, size=(px, px), mode="bilinear", antialias=antialias
    )
    stretched = stretched if antialias else stretched.round().to(torch.uint8)
    if crop.mirror:
        stretched = stretched.flip(3)
    return stretched.permute(0, 2, 3, 1)[0].contiguous().numpy()


def stamp(path: Path) -> str:
    """What changes when a file does: its size and time."""
    info = path.stat()
    return f"{info.st_size} {info.st_mtime_ns}"
