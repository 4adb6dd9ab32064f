"""Preparing photos for the model's image tower: a square, or at most the size it can use.

LLaVA-1.5 was trained on photos padded to a square with CLIP's mean colour (haotian-liu/LLaVA,
`expand2square`, `image_aspect_ratio: pad`). The published processor crops the centre instead and
never sees a quarter of a 640 x 480 photo's width.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from PIL import Image

from data.errors import UserError
from data.images import MAX_IMAGE_PIXELS

Aspect = Literal["pad", "crop", "squash", "keep"]
ASPECTS: tuple[str, ...] = get_args(Aspect)

# No image tower uses more; beyond this, extreme aspect ratios would waste memory.
_LONGEST_SIDE = 4096
_BLANK_SIDE = 336
_SHAPES = ((1, 1), (4, 3), (3, 4), (16, 9), (9, 16), (2, 1), (1, 2), (3, 1), (1, 3), (6, 1), (1, 6))


@dataclass(frozen=True)
class Preprocessing:
    """How pixels are prepared; part of a run's fingerprint.

    `size` is the side of the square in pixels; None with `keep`, if the model's own processor cuts
    the photo into tiles (LLaVA-1.6) or reads it in its own shape (Qwen-VL).
    """

    aspect: Aspect = "pad"
    size: int | None = 336
    fill: tuple[int, int, int] = (122, 116, 104)
    max_image_pixels: int = MAX_IMAGE_PIXELS
    resample: str = "bicubic"
    # The grids to which a photo is fitted before it is cut into tiles (LLaVA-1.6).
    grids: tuple[tuple[int, int], ...] = ()
    # The maximum area and longer side of a photo for such a model.
    max_pixels: int | None = None
    longest_side: int | None = None

    def __post_init__(self) -> None:
        if self.aspect not in ASPECTS:
            raise UserError(f"--aspect must be one of {', '.join(ASPECTS)}, not {self.aspect!r}")
        if self.max_image_pixels < 1:
            raise UserError("--max-image-pixels must be at least 1")

    def to_dict(self) -> dict[str, Any]:
        """For the fingerprint and for a decoding process."""
        values = {**asdict(self), "fill": list(self.fill)}
        values["grids"] = [list(grid) for grid in self.grids]
        optional = ("grids", "max_pixels", "longest_side")
        return {name: v for name, v in values.items() if v or name not in optional}

    def make_blank(self) -> Image.Image:
        """A black image in the prepared size, or one that any model can read unchanged."""
        return Image.new("RGB", (self.size or _BLANK_SIDE,) * 2)

    def list_largest_blanks(self) -> Iterator[Image.Image]:
        """Black images of many shapes, each as large as a prepared photo can be."""
        if self.size is not None:
            yield self.make_blank()
            return
        for width, height in _SHAPES:
            unit = _LONGEST_SIDE // max(width, height)
            yield fit_image(Image.new("RGB", (width * unit, height * unit)), self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        red, green, blue = values["fill"]
        grids = tuple((int(width), int(height)) for width, height in values.get("grids", ()))
        return cls(**{**values, "fill": (red, green, blue), "grids": grids})


def fit_image(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """RGB (W, H) -> RGB (size, size), or with `keep` the photo, scaled down to the maximum size."""
    size, resample = preprocessing.size, Image.Resampling[preprocessing.resample.upper()]
    if preprocessing.aspect == "crop" and size is not None:
        # Crop the center first, so that an extreme aspect ratio is never enlarged by its short
        # side.
        return image.resize((size, size), resample, box=_centre_square(image.size))
    share = _find_share(image.size, preprocessing)
    if share < 1:
        sides = (max(1, math.ceil(side * share - 1e-6)) for side in image.size)
        image = image.resize((next(sides), next(sides)), resample)
    if max(image.size) > _LONGEST_SIDE:
        image = image.copy()
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), resample)
    if size is None:
        return image
    if preprocessing.aspect == "pad":
        image = _pad_to_square(image, preprocessing.fill)
    if image.size == (size, size):
        return image
    return image.resize((size, size), resample)


def _find_share(size: tuple[int, int], preprocessing: Preprocessing) -> float:
    """The scale at which a model that tiles photos itself sees this photo."""
    width, height = size
    shares = [math.inf]
    if preprocessing.grids:
        # The grid with the highest effective resolution, as chosen by the model's own processor.
        shares.append(max(min(w / width, h / height) for w, h in preprocessing.grids))
    if preprocessing.max_pixels is not None:
        shares.append(math.sqrt(preprocessing.max_pixels / (width * height)))
    if preprocessing.longest_side is not None:
        shares.append(preprocessing.longest_side / max(size))
    return min(shares)


def _pad_to_square(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _centre_square(size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    side = min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
