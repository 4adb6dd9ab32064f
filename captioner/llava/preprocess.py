"""From any photo to the square that the model's image tower sees.

LLaVA-1.5 was trained on photos padded to a square with CLIP's mean colour (haotian-liu/LLaVA,
`expand2square`, `image_aspect_ratio: pad`). The published processor crops the centre instead and
never sees a quarter of a 640 x 480 photo's width.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from PIL import Image

from data.errors import UserError
from data.images import MAX_IMAGE_PIXELS

Aspect = Literal["pad", "crop", "squash", "keep"]
ASPECTS: tuple[str, ...] = get_args(Aspect)

# No image tower sees more; beyond it an extreme format would cost memory for nothing.
_LONGEST_SIDE = 4096


@dataclass(frozen=True)
class Preprocessing:
    """How pixels are prepared; part of a run's fingerprint.

    `size` is the side of the square in pixels; None with `keep`, where the model's own processor
    cuts the photo into tiles (LLaVA-1.6).
    """

    aspect: Aspect = "pad"
    size: int | None = 336
    fill: tuple[int, int, int] = (122, 116, 104)
    max_image_pixels: int = MAX_IMAGE_PIXELS
    resample: str = "bicubic"
    # The rectangles that a photo is fitted into before it is cut into tiles (LLaVA-1.6).
    grids: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.aspect not in ASPECTS:
            raise UserError(f"--aspect is one of {', '.join(ASPECTS)}, not {self.aspect!r}")
        if self.max_image_pixels < 1:
            raise UserError("--max-image-pixels must be at least 1")

    def to_dict(self) -> dict[str, Any]:
        """For the fingerprint and for a decoding process."""
        values = {**asdict(self), "fill": list(self.fill)}
        grids = [list(grid) for grid in values.pop("grids")]
        return {**values, "grids": grids} if grids else values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        red, green, blue = values["fill"]
        grids = tuple((int(width), int(height)) for width, height in values.get("grids", ()))
        return cls(**{**values, "fill": (red, green, blue), "grids": grids})


def fit_image(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """RGB (W, H) -> RGB (size, size), or the photo with `keep`, no larger than it is looked at."""
    size = preprocessing.size
    if preprocessing.aspect == "crop" and size is not None:
        # The centre square first, so that an extreme format is never blown up by its short side.
        return image.resize((size, size), Image.Resampling.BICUBIC, box=_centre_square(image.size))
    if preprocessing.grids:
        # The grid that shows most of it, as the model's own processor chooses.
        share = max(min(w / image.width, h / image.height) for w, h in preprocessing.grids)
        if share < 1:
            sides = (max(1, math.ceil(side * share - 1e-6)) for side in image.size)
            image = image.resize((next(sides), next(sides)), Image.Resampling.BICUBIC)
    if max(image.size) > _LONGEST_SIDE:
        image = image.copy()
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BICUBIC)
    if size is None:
        return image
    if preprocessing.aspect == "pad":
        image = _pad_to_square(image, preprocessing.fill)
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BICUBIC)


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
