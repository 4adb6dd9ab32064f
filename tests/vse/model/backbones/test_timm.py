"""Backbones of timm, of families that differ in what comes out and which sizes they take."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from data.errors import UserError
from tests.vse.model.backbones.checks import (
    EXACT,
    check_checkpointing,
    check_rebuilt,
    kept_for_backward,
    some_images,
)
from vse.model.backbones import build_backbone, make_image_backbone
from vse.model.backbones.base import IMAGENET_MEAN
from vse.model.backbones.probe import idle_weights
from vse.model.backbones.timm import TimmImage
from vse.recipes import ImageTowerConfig

PX = 64
TINY_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
FOUR_STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 32)}
# Family: architecture, arguments, tokens of a 64-px image, width.
FAMILIES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "vit": ("vit_tiny_patch16_224", TINY_VIT, 17, 32),
    "beit, normed after pooling": ("beit_base_patch16_224", TINY_VIT, 17, 32),
    "vit, pooled by attention": ("vit_base_patch16_siglip_224", TINY_VIT, 16, 32),
    "deit, two class tokens": ("deit_tiny_distilled_patch16_224", TINY_VIT, 18, 32),
    "eva02": ("eva02_tiny_patch14_224", TINY_VIT, 17, 32),
    "swin, channels last": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)},
        64,
        32,
    ),
    "convnext": ("convnext_atto", FOUR_STAGES, 4, 32),
    "resnet": ("resnet10t", {}, 4, 512),
    "mobilenetv3, pooled before its last layer": ("mobilenetv3_small_050", {}, 4, 1024),
    "mambaout, channels last": ("mambaout_femto", FOUR_STAGES, 4, 128),
    "efficientvim, several maps": ("efficientvim_m1", {}, 1, 320),
    "poolformer": ("poolformerv2_s12", {}, 4, 512),
}


def make(family: str, *, px: int = PX) -> TimmImage:
    name, args, _, _ = FAMILIES[family]
    made = build_backbone({"library": "timm", "name": name, "args": args}, px=px)
    assert isinstance(made, TimmImage)
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_before_pooling(family: str) -> None:
    name, _, count, width = FAMILIES[family]
    backbone = make(family)
    assert backbone.eval()(some_images(PX)).shape == (2, count, width)
    assert backbone.width == width and backbone.block_count() > 0
    assert backbone.weight_depths().keys() == {n for n, _ in backbone.named_parameters()}
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None and (backbone.mean, backbone.std) == (cfg.mean, cfg.std)
    check_rebuilt(backbone, px=PX)
    # What the tokens do not depend on is known, so that no process waits for its gradient.
    unreached = set(idle_weights(backbone, px=PX))
    backbone(some_images(PX)).sum().backward()
    assert {n for n, p in backbone.named_parameters() if p.grad is None} == unreached


@pytest.mark.parametrize("family", ["vit", "swin, channels last", "convnext", "eva02"])
def test_other_sizes(family: str) -> None:
    counts = [make(family, px=px).eval()(some_images(px)).shape[1] for px in (64, 96, 128)]
    assert counts == sorted(set(counts))


def test_grids_become_tokens_row_by_row() -> None:
    for family in ("swin, channels last", "resnet"):
        backbone = make(family).eval()
        grid = backbone.model(some_images(PX))
        last = family != "resnet"
        side = grid.shape[1] if last else grid.shape[2]
        token = grid[:, 1, 0] if last else grid[:, :, 1, 0]
        torch.testing.assert_close(backbone(some_images(PX))[:, side], token, **EXACT)


def test_of_several_scales_the_coarsest() -> None:
    made = build_backbone({"library": "timm", "name": "crossvit_tiny_240"}, px=240).eval()
    assert isinstance(made, TimmImage) and made.width == 192
    scales = made.model.forward_features(some_images(240))  # type: ignore[operator]
    assert [scale.shape[1] for scale in scales] == [401, 197]
    torch.testing.assert_close(made(some_images(240)), scales[1], **EXACT)


def test_a_norm_between_pooling_and_classifier_is_applied_to_the_tokens() -> None:
    backbone = make("beit, normed after pooling").eval()
    model: Any = backbone.model
    assert isinstance(model.fc_norm, nn.LayerNorm)
    expected = model.fc_norm(model.forward_features(some_images(PX)))
    torch.testing.assert_close(backbone(some_images(PX)), expected, **EXACT)


@pytest.mark.parametrize("family", ["vit", "swin, channels last", "convnext"])
def test_checkpointing_gives_the_same_gradients_for_less_memory(family: str) -> None:
    check_checkpointing(lambda: make(family), (some_images(PX),))
    backbone = make(family)
    before = kept_for_backward(backbone, (some_images(PX),))
    backbone.checkpoint_gradients()
    assert kept_for_backward(backbone, (some_images(PX),)) < 0.8 * before


def test_by_name_without_weights() -> None:
    settings = ImageTowerConfig(name="timm:resnet10t", pretrained=False, px=PX)
    backbone = make_image_backbone(settings)
    assert isinstance(backbone, TimmImage) and backbone.mean == IMAGENET_MEAN
    check_rebuilt(backbone, px=PX)


def test_by_folder_with_its_weights_at_another_size(tmp_path: Path) -> None:
    made = timm.create_model("vit_tiny_patch16_224", num_classes=7, **TINY_VIT)
    timm.models.save_for_hf(
        made, str(tmp_path / "vit"), model_args=TINY_VIT, safe_serialization=True
    )
    settings = ImageTowerConfig(name=f"timm:{tmp_path / 'vit'}", px=PX)
    backbone = make_image_backbone(settings)
    assert backbone(some_images(PX)).shape == (2, 17, 32)
    blocks = {k: v for k, v in made.state_dict().items() if k.startswith("blocks.")}
    for name, value in blocks.items():
        torch.testing.assert_close(backbone.state_dict()[f"model.{name}"], value, **EXACT)
    check_rebuilt(backbone, px=PX)
    native = make_image_backbone(ImageTowerConfig(name=settings.name, px=224)).eval()
    made.reset_classifier(0, "")
    torch.testing.assert_close(native(some_images(224)), made.eval()(some_images(224)), **EXACT)


@pytest.mark.parametrize(
    ("name", "px", "message"),
    [
        ("timm:vit_tiny_patch16_225", 224, "did you mean timm:vit_tiny_patch16_224?"),
        ("timm:resnet10t.mine", 64, "no weights timm:resnet10t.mine; .* it has timm:resnet10t.c3"),
        ("timm:resnet10t", 64, "hf download timm/resnet10t.c3_in1k.*image.pretrained=false"),
        ("timm:nobody/vit", 64, "hf download nobody/vit`"),
    ],
)
def test_what_cannot_be_had_is_said(name: str, px: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_image_backbone(ImageTowerConfig(name=name, px=px))


@pytest.mark.parametrize(
    ("reaching", "message"),
    [
        ({"name": "hf-hub:a/b"}, "timm has no architecture hf-hub:a/b"),
        ({"name": "resnet10t", "args": {"checkpoint_path": "x"}}, "takes no checkpoint_path"),
    ],
)
def test_a_description_does_not_reach_out(reaching: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone({"library": "timm", **reaching}, px=64)


def test_sizes_and_arguments_that_a_model_refuses() -> None:
    settings = ImageTowerConfig(name="timm:efficientformer_l1", pretrained=False, px=64)
    with pytest.raises(UserError, match="no tokens for 64 x 64 pixels .*--set image.px="):
        make_image_backbone(settings)
    wrong = {"library": "timm", "name": "resnet10t", "args": {"depht": 2}}
    with pytest.raises(UserError, match="cannot build timm's resnet10t with .*depht"):
        build_backbone(wrong, px=64)
    network = build_backbone({"library": "timm", "name": "dla46_c"}, px=64)
    with pytest.raises(UserError, match="timm:dla46_c cannot checkpoint gradients"):
        network.checkpoint_gradients()
