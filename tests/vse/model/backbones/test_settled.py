"""What a recipe says of a backbone: frozen parts, rates by depth, normalisation, sizes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data.errors import UserError
from data.settings.yaml_files import merge
from tests.vse.model.backbones.checks import some_images
from tests.vse.model.backbones.test_huggingface import BERT, SWIN, VIT
from tests.vse.objective.test_stages import some_batch
from tests.vse.world import TINY
from vse.model.backbones import Backbone, build_backbone
from vse.model.backbones.base import IMAGENET_STD
from vse.model.build import assemble, describe, rebuild
from vse.model.d2s import D2SModel
from vse.model.logits import make_logits
from vse.model.text_batch import pad_texts
from vse.model.tokenizer.tokenizer import build as build_tokenizer
from vse.objective.stages import DenseStage
from vse.recipes import LossConfig, OptimConfig, Recipe, build
from vse.training.optim import layer_rates, make_optimizer

CONVNEXT = {"hidden_sizes": [8, 8, 16, 32], "depths": [2, 2, 1, 1]}
TOKENIZER = build_tokenizer(["a red square", "a blue one"], vocab_size=100)


def recipe(**changes: Any) -> Recipe:
    return build(Recipe, merge(TINY, changes))


def model_of(made: Recipe) -> D2SModel:
    return assemble(made, tokenizer=TOKENIZER, decoder=False)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (VIT, {"embeddings.cls_token": 0, "layers.0.mlp.fc1.bias": 1, "layernorm.bias": 3}),
        (BERT, {"embeddings.LayerNorm.bias": 0, "encoder.layer.1.output.dense.bias": 2}),
        (
            SWIN,
            {
                "embeddings.norm.bias": 0,
                "encoder.layers.0.blocks.1.mlp.fc1.bias": 2,
                "encoder.layers.0.downsample.norm.bias": 2,  # behind the second block
                "encoder.layers.1.blocks.0.mlp.fc1.bias": 3,
                "layernorm.bias": 4,
            },
        ),
        (
            {"model_type": "convnext", **CONVNEXT},
            {
                "encoder.stages.0.layers.1.pwconv1.bias": 2,
                "encoder.stages.1.downsampling_layer.1.bias": 2,  # listed before its blocks
                "encoder.stages.1.layers.0.pwconv1.bias": 3,
                "layernorm.bias": 7,
            },
        ),
        (
            {"model_type": "dinov3_convnext", **CONVNEXT},
            {
                "model.stages.0.downsample_layers.0.bias": 0,  # the stem
                "model.stages.1.downsample_layers.1.bias": 2,
                "layer_norm.bias": 7,
            },
        ),
        (
            {"library": "open_clip", "vision_cfg": {"layers": [1, 2, 1, 1], "width": 8}},
            {
                "model.conv1.weight": 0,
                "model.layer1.0.conv1.weight": 1,
                "model.layer2.1.conv1.weight": 3,
                "model.layer4.0.conv1.weight": 5,
            },
        ),
        (
            {"library": "timm", "name": "resnet10t"},
            {"model.conv1.0.weight": 0, "model.layer1.0.conv1.weight": 1},
        ),
    ],
    ids=["vit", "bert", "swin", "convnext", "dinov3", "clip-resnet", "timm-resnet"],
)
def test_how_deep_a_weight_lies(config: dict[str, Any], expected: dict[str, int]) -> None:
    depths = build_backbone(config, px=64).weight_depths()
    assert {name: depths[name] for name in expected} == expected
    assert list(depths.values()) == sorted(depths.values())


@pytest.mark.parametrize(("blocks", "trained"), [(0, 3), (1, 2), (2, 1)])
def test_first_blocks_stay_as_they_were(blocks: int, trained: int) -> None:
    backbone = build_backbone(VIT).train()
    backbone.freeze(blocks)
    depths = backbone.weight_depths()
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad is (depths[name] > blocks)
    moving = {depths[name] for name, p in backbone.named_parameters() if p.requires_grad}
    assert len(moving) == trained
    # Whatever is asked of the whole: what is frozen draws no dropout.
    backbone.eval()
    backbone.train()
    layers: Any = backbone.model.layers
    assert [layer.training for layer in layers] == [index >= blocks for index in range(2)]
    assert not backbone.model.embeddings.training  # type: ignore[union-attr]


def test_a_frozen_tower_says_the_same_in_training() -> None:
    settings = {"config": {**TINY["text"]["config"], "hidden_dropout_prob": 0.5}}  # type: ignore[index, dict-item]
    model = model_of(recipe(image={"freeze": "all"}, text={**settings, "freeze": "all"})).train()
    ids = torch.tensor([[2, 5, 6, 3]])
    found = [model.text.backbone(ids, None) for _ in range(2)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    model.logits = make_logits(LossConfig(align="infonce"), batch_size=3)
    stage = DenseStage(model, LossConfig(align="infonce"))
    texts = pad_texts([np.array([2, 5, word, 3]) for word in (6, 7, 8)], pad_id=0)
    stage(replace(some_batch(), text=texts), epoch=2.0)["loss"].backward()
    still = {name for name, p in stage.named_parameters() if p.grad is None}
    assert still == {name for name, _ in stage.named_parameters() if ".backbone." in name}
    rates = [group["lr"] for group in make_optimizer(stage, OptimConfig()).param_groups]
    assert rates == [OptimConfig().lr]


def test_frozen_batch_norm_stands_still() -> None:
    backbone = build_backbone({"library": "timm", "name": "resnet10t"}, px=64)
    backbone.freeze(2)
    backbone.train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(some_images(64))
    moved = {n for n, value in backbone.named_buffers() if not torch.equal(value, before[n])}
    assert moved and all(name.startswith(("model.layer3.", "model.layer4.")) for name in moved)


def test_more_blocks_than_there_are() -> None:
    with pytest.raises(UserError, match="5 blocks are to be frozen, but the backbone has 1"):
        model_of(recipe(image={"freeze": 5}))


def test_rates_fall_from_the_head_to_the_embeddings() -> None:
    model = model_of(recipe())
    model.image.backbone = build_backbone(VIT)  # type: ignore[assignment]
    stage = nn.ModuleDict({"model": model})
    config = OptimConfig(lr=1.0, backbone_lr=0.1, layer_decay=0.5)
    rates = layer_rates(stage, config)
    prefix = "model.image.backbone."
    for name, rate in {
        "layernorm.bias": 0.1,
        "layers.1.mlp.fc1.bias": 0.05,
        "layers.0.mlp.fc1.bias": 0.025,
        "embeddings.cls_token": 0.0125,
    }.items():
        assert rates[prefix + name] == pytest.approx(rate)
    groups = make_optimizer(stage, config).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([1.0, 0.1, 0.05, 0.025, 0.0125])
    names = {id(p): name for name, p in stage.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert rates.get(names.pop(id(parameter)), 1.0) == group["lr"]
    assert not names


def test_rates_by_depth_need_known_blocks() -> None:
    class Plain(Backbone):
        def __init__(self) -> None:
            super().__init__(nn.Linear(2, 2))

    stage = nn.ModuleDict({"backbone": Plain()})
    with pytest.raises(UserError, match="optim.layer_decay is 0.5, but the blocks"):
        layer_rates(stage, OptimConfig(layer_decay=0.5))
    assert set(layer_rates(stage, OptimConfig()).values()) == {2e-5}


def test_normalisation_of_the_recipe_goes_with_the_model() -> None:
    made = recipe(image={"mean": [0.5, 0.5, 0.25]})
    model = model_of(made)
    pixels = torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)
    expected = [(1 - m) / s for m, s in zip((0.5, 0.5, 0.25), IMAGENET_STD, strict=True)]
    assert model.image.normalise(pixels)[0, :, 0, 0].tolist() == pytest.approx(expected)
    again = rebuild(describe(model, made))
    torch.testing.assert_close(again.image.normalise(pixels), model.image.normalise(pixels))
    assert "image.mean" not in model.state_dict()


def test_a_description_of_old_is_normalised_as_it_was() -> None:
    made = recipe()
    described = describe(model_of(made), made)
    for key in ("mean", "std"):
        del described["image"]["backbone"][key]
    assert rebuild(described).image.backbone.std == IMAGENET_STD


def test_settings_that_do_not_fit() -> None:
    for image, message in (
        ({"freeze": "some"}, "image.freeze is 'some'; it must be none, all or a number of blocks"),
        ({"freeze": -1}, "image.freeze is -1"),
        ({"freeze": 1.5}, "image.freeze is 1.5; it must be of type int or str"),
        ({"mean": [0.5]}, "image.mean must be three numbers"),
        ({"mean": 0.5}, "image.mean is 0.5; it must be a list"),
        ({"std": [0.5, 0.5, 0]}, "image.std is .* must be positive"),
    ):
        with pytest.raises(UserError, match=message):
            recipe(image=image)
    with pytest.raises(UserError, match="llava: is for image towers"):
        recipe(text={"config": None, "name": "llava:llava-scenes"})
    with pytest.raises(UserError, match="timm has no text towers"):
        recipe(text={"config": None, "name": "timm:vit_tiny_patch16_224"})
    with pytest.raises(UserError, match="optim.layer_decay must lie in"):
        recipe(optim={"layer_decay": 0})


def test_weights_that_nothing_depends_on_are_not_trained() -> None:
    """Several processes would wait for their gradients."""
    config = {"library": "timm", "name": "efficientvim_m1"}
    model = model_of(recipe(image={"config": config, "px": 64}))
    idle = {n for n, p in model.image.backbone.named_parameters() if not p.requires_grad}
    assert "model.weights" in idle and "model.norm.0.weight" in idle
    v = model.train().encode_image(some_images(64))
    v[:, 0].sum().backward()
    assert {n for n, p in model.image.named_parameters() if p.grad is None} == {
        f"backbone.{name}" for name in idle
    }


def test_adapters_of_another_rank_are_refused() -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    tower = {"config": None, "name": "llava:llava-scenes", "px": 112, "lora": 2}
    made = recipe(image=tower)
    before = {"recipe": made.to_dict(), "model": describe(model_of(made), made)}
    for rank in (None, 4):
        changed = recipe(image={**tower, "lora": rank})
        with pytest.raises(UserError, match="lora"):
            assemble(changed, tokenizer=TOKENIZER, decoder=False, before=before)


def test_an_image_tower_that_leaves_out_patches_at_random_is_refused() -> None:
    with pytest.raises(UserError, match="random"):
        model_of(recipe(image={"config": {"model_type": "vit_mae"}}))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "convbert", "embedding_size": 32},
        {"model_type": "fnet"},
    ],
    ids=lambda config: config["model_type"],
)
def test_a_text_tower_that_reads_padding_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="padding"):
        model_of(recipe(text={"config": config}))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "xlm", "emb_dim": 32, "n_heads": 2, "n_layers": 1, "pad_index": 0},
        {"model_type": "mobilebert", "intra_bottleneck_size": 32, "true_hidden_size": 32},
    ],
    ids=lambda config: config["model_type"],
)
def test_a_text_tower_that_knows_its_padding_is_not_refused(config: dict[str, Any]) -> None:
    """XLM finds it by its id; for MobileBERT it is like the end of a text."""
    assert model_of(recipe(text={"config": config})).text.backbone.width == 32
