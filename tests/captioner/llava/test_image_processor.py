"""What is read from a model's files: sizes, tokens, templates."""

import json
from pathlib import Path
from typing import Any

import pytest

from captioner.llava.chat_template import read_chat_template
from captioner.llava.image_processor import choose_preprocessing, count_image_tokens
from captioner.llava.weights import Weights
from data.errors import UserError

CLIP = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
MEAN = [0.48145466, 0.4578275, 0.40821073]


def make_weights(folder: Path, **files: Any) -> Weights:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return Weights("m", folder, "r")


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"model_type": "llava", "vision_config": CLIP}, 576),
        (
            {
                "model_type": "llava",
                "vision_config": CLIP,
                "vision_feature_select_strategy": "full",
            },
            577,
        ),
        ({"model_type": "llava_next", "vision_config": CLIP}, 576),
        (
            {
                "model_type": "llava",
                "vision_config": {**CLIP, "model_type": "siglip_vision_model"},
                "vision_feature_select_strategy": "full",
            },
            576,
        ),
        ({"model_type": "llava", "vision_config": {**CLIP, "model_type": "pixtral"}}, 1),
        ({"model_type": "qwen2_vl"}, 1),
    ],
)
def test_count_image_tokens(tmp_path: Path, config: dict[str, Any], tokens: int) -> None:
    assert count_image_tokens(make_weights(tmp_path, config=config)) == tokens


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
    with pytest.raises(UserError, match="cuts photos up by itself"):
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
