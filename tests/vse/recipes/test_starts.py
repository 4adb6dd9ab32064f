"""The recipes that begin with models of today: their names are known, and their parts fit."""

from typing import Any

import open_clip
import pytest
import timm
import torch

from vse.model.backbones import build_backbone
from vse.recipes.files import read_recipe, resolve
from vse.training.forecast.step import build_on_meta


class Words:
    vocab_size = 30522
    pad_id = 0


@pytest.mark.parametrize("name", ["clip", "long-clip", "siglip2", "dinov3"])
@pytest.mark.parametrize("stage", ["1", "2"])
def test_the_towers_are_known_and_fit_together(name: str, stage: str) -> None:
    recipe = resolve(read_recipe(name), stage=stage)
    image, text = str(recipe.image.name), str(recipe.text.name)
    if image.startswith("open_clip:"):
        arch, tag = image.removeprefix("open_clip:").split("/")
        tags = open_clip.list_pretrained_tags_by_model(arch)
        assert tag in tags or tag == "longclip-B.pt"  # a file
        assert text == image
        config: Any = open_clip.get_model_config(arch)
        assert recipe.width == config["embed_dim"] and recipe.heads == "clip"
    else:
        assert image.removeprefix("timm:") in timm.list_models(pretrained=True)
    # The dry run's model, which has every part and no weights.
    model = build_on_meta(recipe, stage=stage, vocabulary=Words())
    positions = model.text.backbone.positions
    assert positions is None or recipe.text.max_tokens <= positions
    assert (model.decoder is None) is (stage == "1")


def test_a_dinov3_gives_tokens_at_any_size_that_it_is_made_for() -> None:
    args = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    about = {"library": "timm", "name": "vit_base_patch16_dinov3", "args": args}
    backbone = build_backbone(about, px=48).eval()
    tokens = backbone(torch.randn(2, 3, 48, 48))
    assert tokens.shape[0] == 2 and tokens.shape[2] == 32 and tokens.shape[1] >= 9
    assert tokens.isfinite().all()
