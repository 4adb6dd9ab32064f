"""What is read from a model's files: sizes, tokens, templates."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner.llava.chat_template import read_chat_template
from captioner.llava.image_processor import choose_preprocessing, choose_unread
from captioner.llava.preprocess import Preprocessing, fit_image
from captioner.llava.weights import Weights
from data.errors import UserError

MEAN = [0.48145466, 0.4578275, 0.40821073]


def make_weights(folder: Path, **files: Any) -> Weights:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return Weights("m", folder, "r")


@pytest.mark.parametrize("nested", [True, False])
def test_llava_15_is_padded_with_clips_mean(tmp_path: Path, nested: bool) -> None:
    processor = {"crop_size": {"height": 336, "width": 336}, "image_mean": MEAN}
    files: dict[str, Any] = (
        {"processor_config": {"image_processor": processor}}
        if nested
        else {"preprocessor_config": processor}
    )
    weights = make_weights(tmp_path, config={"model_type": "llava"}, **files)
    chosen = choose_preprocessing(weights, aspect=None, max_image_pixels=10)
    assert (chosen.aspect, chosen.size, chosen.fill) == ("pad", 336, (122, 116, 104))
    assert chosen.max_image_pixels == 10
    crop = choose_preprocessing(weights, aspect="crop", max_image_pixels=10)
    assert (crop.aspect, crop.size) == ("crop", 336)
    keep = choose_preprocessing(weights, aspect="keep", max_image_pixels=10)
    assert (keep.aspect, keep.size) == ("keep", None)


def test_llava_16_cuts_tiles_by_itself(tmp_path: Path) -> None:
    weights = make_weights(
        tmp_path,
        config={"model_type": "llava_next"},
        preprocessor_config={
            "crop_size": {"height": 336, "width": 336},
            "image_grid_pinpoints": [[336, 672], [672, 336]],
        },
    )
    chosen = choose_preprocessing(weights, aspect=None, max_image_pixels=10)
    assert (chosen.aspect, chosen.size) == ("keep", None)
    assert chosen.grids == ((672, 336), (336, 672))
    with pytest.raises(UserError, match="splits images itself"):
        choose_preprocessing(weights, aspect="pad", max_image_pixels=10)


def test_the_template_in_each_of_its_places(tmp_path: Path) -> None:
    weights = make_weights(tmp_path)
    assert read_chat_template(weights) is None
    make_weights(tmp_path, tokenizer_config={"chat_template": "old"})
    assert read_chat_template(weights) == "old"
    make_weights(tmp_path, chat_template={"chat_template": "newer"})
    assert read_chat_template(weights) == "newer"
    (tmp_path / "chat_template.jinja").write_text("newest")
    assert read_chat_template(weights) == "newest"


@pytest.mark.parametrize(
    ("config", "processor", "seen"),
    [
        # Gemma 3 squashes every photo, with its own filter.
        (
            {"model_type": "gemma3"},
            {"size": {"height": 896, "width": 896}, "resample": 2},
            {"aspect": "squash", "size": 896, "resample": "bilinear"},
        ),
        # Qwen-VL reads any number of pixels: 1,280 tokens' worth of them, or fewer by its files.
        (
            {"model_type": "qwen2_5_vl"},
            {"patch_size": 14, "merge_size": 2, "max_pixels": 12845056},
            {"aspect": "keep", "max_pixels": 1280 * 28 * 28},
        ),
        (
            {"model_type": "qwen3_vl"},
            {"patch_size": 16, "merge_size": 2, "size": {"longest_edge": 65536}},
            {"aspect": "keep", "max_pixels": 65536},
        ),
        (
            {"model_type": "idefics3"},
            {"size": {"longest_edge": 1456}, "resample": 1},
            {"aspect": "keep", "longest_side": 1456, "resample": "lanczos"},
        ),
        # Pixtral is a LLaVA by its name.
        (
            {"model_type": "llava"},
            {"size": {"longest_edge": 1024}},
            {"aspect": "keep", "longest_side": 1024},
        ),
    ],
)
def test_no_more_of_a_photo_than_the_model_sees(
    tmp_path: Path, config: dict[str, Any], processor: dict[str, Any], seen: dict[str, Any]
) -> None:
    weights = make_weights(tmp_path, config=config, preprocessor_config=processor)
    chosen = choose_preprocessing(weights, aspect=None, max_image_pixels=10**8)
    expected = {"size": None, "max_pixels": None, "longest_side": None, **seen}
    assert {name: getattr(chosen, name) for name in expected} == expected
    assert Preprocessing.from_dict(chosen.to_dict()) == chosen
    fitted = fit_image(Image.new("RGB", (4000, 3000)), chosen)
    if chosen.size is not None:
        assert fitted.size == (chosen.size, chosen.size)
        return
    assert chosen.max_pixels is None or fitted.width * fitted.height < 1.01 * chosen.max_pixels
    assert chosen.longest_side is None or max(fitted.size) == chosen.longest_side
    assert abs(fitted.width / fitted.height - 4 / 3) < 0.01
    small = Image.new("RGB", (40, 30))
    assert fit_image(small, chosen).size == small.size


def test_internvl_sees_grids_of_so_many_tiles(tmp_path: Path) -> None:
    processor = {"size": {"height": 448, "width": 448}, "max_patches": 12}
    weights = make_weights(
        tmp_path, config={"model_type": "internvl"}, preprocessor_config=processor
    )
    chosen = choose_preprocessing(weights, aspect=None, max_image_pixels=10**8)
    assert fit_image(Image.new("RGB", (4000, 3000)), chosen).size == (4 * 448, 3 * 448)
    assert fit_image(Image.new("RGB", (4000, 100)), chosen).size == (4000, 100)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("llava-hf/llava-1.5-7b-hf", 336),
        ("llava-hf/llava-v1.6-34b-hf", None),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", None),
        ("Qwen/Qwen2.5-VL-7B-Instruct", None),
    ],
)
def test_a_photo_for_a_server_whose_model_is_not_here(name: str, size: int | None) -> None:
    assert choose_unread(name, aspect=None, max_image_pixels=10**8).size == size
