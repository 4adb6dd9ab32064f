"""Photos made square, as LLaVA was trained, cropped or squashed."""

import json

import numpy as np
import pytest
from PIL import Image

from captioner.llava.preprocess import Preprocessing, fit_image
from data.errors import UserError

FILL = (122, 116, 104)


def photo(width: int, height: int) -> Image.Image:
    """Red left half, blue right half."""
    image = Image.new("RGB", (width, height), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    return image


def expand2square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """LLaVA's own (llava/mm_utils.py), kept here to compare with."""
    width, height = image.size
    if width == height:
        return image
    if width > height:
        result = Image.new(image.mode, (width, width), colour)
        result.paste(image, (0, (width - height) // 2))
        return result
    result = Image.new(image.mode, (height, height), colour)
    result.paste(image, ((height - width) // 2, 0))
    return result


@pytest.mark.parametrize("size", [(640, 480), (480, 641), (100, 100), (30, 7)])
def test_pad_is_llavas_own(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    expected = expand2square(image, FILL).resize((336, 336), Image.Resampling.BICUBIC)
    fitted = fit_image(image, Preprocessing(aspect="pad", size=336, fill=FILL))
    assert np.array_equal(np.asarray(fitted), np.asarray(expected))


def test_pad_shows_all_and_fills_the_rest() -> None:
    fitted = fit_image(photo(200, 100), Preprocessing(aspect="pad", size=100, fill=FILL))
    assert fitted.getpixel((50, 5)) == FILL and fitted.getpixel((50, 95)) == FILL
    assert fitted.getpixel((2, 50)) == (255, 0, 0) and fitted.getpixel((97, 50)) == (0, 0, 255)


def test_crop_takes_the_centre() -> None:
    image = Image.new("RGB", (300, 100), (0, 255, 0))
    image.paste((255, 0, 0), (100, 0, 200, 100))
    fitted = fit_image(image, Preprocessing(aspect="crop", size=50))
    assert fitted.size == (50, 50)
    assert fitted.getpixel((25, 25)) == (255, 0, 0)
    assert fitted.getpixel((1, 25)) == (255, 0, 0)


def test_squash_shows_all_and_fills_nothing() -> None:
    fitted = fit_image(photo(200, 100), Preprocessing(aspect="squash", size=50))
    assert fitted.getpixel((1, 1)) == (255, 0, 0) and fitted.getpixel((48, 48)) == (0, 0, 255)


def test_keep_leaves_the_photo_alone() -> None:
    image = photo(64, 48)
    fitted = fit_image(image, Preprocessing(aspect="keep", size=None))
    assert np.array_equal(np.asarray(fitted), np.asarray(image))


@pytest.mark.parametrize("aspect", ["pad", "crop", "squash", "keep"])
@pytest.mark.parametrize("shape", [(30_000, 2), (1, 30_000)])
def test_extreme_formats_stay_small(aspect: str, shape: tuple[int, int]) -> None:
    size = None if aspect == "keep" else 28
    fitted = fit_image(photo(*shape), Preprocessing(aspect=aspect, size=size))  # type: ignore[arg-type]
    assert fitted.size == (28, 28) if size else max(fitted.size) <= 4096


def test_there_and_back() -> None:
    one = Preprocessing(aspect="crop", size=56, fill=(1, 2, 3), max_image_pixels=99)
    assert Preprocessing.from_dict(one.to_dict()) == one


def test_wrong_values() -> None:
    with pytest.raises(UserError, match="--aspect must be one of"):
        Preprocessing(aspect="stretch")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--max-image-pixels"):
        Preprocessing(max_image_pixels=0)


@pytest.mark.parametrize(
    ("photo", "seen"),
    [
        ((4000, 3000), (672, 504)),
        ((3000, 4000), (504, 672)),
        ((4000, 1000), (1008, 252)),
        ((300, 200), (300, 200)),
    ],
)
def test_a_photo_is_kept_no_larger_than_its_tiles(
    photo: tuple[int, int], seen: tuple[int, int]
) -> None:
    """As LLaVA-1.6's own processor fits it into the grid that shows most of it."""
    grids = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
    preprocessing = Preprocessing(aspect="keep", size=None, grids=grids)
    again = Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict())))
    assert again == preprocessing and "grids" not in Preprocessing().to_dict()
    assert fit_image(Image.new("RGB", photo), again).size == seen
