"""Adapters of every library's backbone: nothing at first, W x + B A x then, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import vse
from data.errors import UserError
from data.settings.yaml_files import merge
from tests.vse.model.backbones.checks import check_rebuilt, some_ids, some_images
from tests.vse.model.backbones.test_settled import TOKENIZER
from tests.vse.runs import make, run, run_and_die
from tests.vse.world import TINY
from vse.model.backbones import Backbone, ImageBackbone, build_backbone
from vse.model.backbones.probe import count_tokens
from vse.model.build import assemble
from vse.recipes import Recipe, build

pytest.importorskip("peft", reason="peft is not installed")
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT = {"model_type": "vit", "image_size": 16, "patch_size": 8, "intermediate_size": 32, **SIZES}
BERT = {"model_type": "bert", "intermediate_size": 32, "vocab_size": 50, **SIZES}
SWIN = {
    "model_type": "swin",
    "image_size": 16,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 2,
}
ARGS = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
CLIP = {"width": 32, "layers": 1}
BACKBONES: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "bert": BERT,
    "swin": SWIN,
    "timm": {"library": "timm", "name": "vit_tiny_patch16_224", "args": ARGS},
    "clip": {
        "library": "open_clip",
        "vision_cfg": {**CLIP, "image_size": 16, "head_width": 16, "patch_size": 8},
    },
    "clip text": {"library": "open_clip", "text_cfg": {**CLIP, "heads": 2, "vocab_size": 50}},
}


def tokens(backbone: Backbone, kind: str) -> torch.Tensor:
    inputs = some_ids() if "text" in kind or kind == "bert" else (some_images(16),)
    found: torch.Tensor = backbone(*inputs)
    return found


@pytest.mark.parametrize("kind", BACKBONES)
def test_adapters_begin_with_nothing_and_are_all_that_is_trained(kind: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BACKBONES[kind], px=16).eval()
    before = tokens(backbone, kind)
    backbone.add_lora(4)
    torch.testing.assert_close(tokens(backbone, kind), before, rtol=1e-5, atol=1e-5)
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    for name, weight in trained.items():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    after = tokens(backbone, kind)
    assert not torch.allclose(after, before, atol=1e-2)
    after.square().sum().backward()
    assert all(p.grad is not None for p in trained.values())
    assert not any(p.requires_grad for n, p in backbone.named_parameters() if "lora_" not in n)
    check_rebuilt(backbone, px=16)
    if isinstance(backbone, ImageBackbone):
        assert count_tokens(backbone, 16) == before.shape[1]


def test_an_adapted_layer_is_the_paper_s() -> None:
    backbone = build_backbone(BACKBONES["bert"])
    backbone.add_lora(4)
    layer: Any = backbone.get_submodule("encoder.layer.0.intermediate.dense")
    a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
    nn.init.normal_(b)
    x = torch.randn(3, 32)
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + x @ a.T @ b.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


def with_lora(name: str, args: dict[str, Any], px: int = 16) -> Backbone:
    config = {"library": "timm", "name": name, "args": args}
    recipe = build(Recipe, merge(TINY, {"image": {"config": config, "px": px, "lora": 2}}))
    return assemble(recipe, tokenizer=TOKENIZER, decoder=False).image.backbone


@pytest.mark.parametrize(
    ("name", "args", "px"),
    [
        ("beit_base_patch16_224", ARGS, 16),
        ("swinv2_tiny_window8_256", {"embed_dim": 16, "depths": [2], "num_heads": [2]}, 32),
    ],
)
def test_adapters_without_effect_are_refused(name: str, args: dict[str, Any], px: int) -> None:
    """Their attentions use the weights of `qkv` without calling it."""
    with pytest.raises(UserError, match=r"0\.attn\.qkv.*image\.lora"):
        with_lora(name, args, px)


def test_adapters_of_layers_without_effect_are_not_trained() -> None:
    backbone = with_lora("crossvit_tiny_240", {}, 240).train()
    backbone(some_images(240)).sum().backward()
    adapters = {name: p for name, p in backbone.named_parameters() if ".lora_" in name}
    still = {name for name, p in adapters.items() if not p.requires_grad}
    assert still and still == {name for name, p in adapters.items() if p.grad is None}


def test_batch_norm_stands_still_under_adapters() -> None:
    backbone = with_lora("levit_128s", {}, 64).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(some_images(64))
    for name, value in backbone.named_buffers():
        assert torch.equal(value, before[name]), name
    adapted: Any = backbone.get_submodule("model.stages.0.blocks.0.attn.qkv.linear")
    assert adapted.training


def test_a_run_is_taken_up_carried_over_and_loaded(project: Path) -> None:
    settings = ("image.lora=2", "text.lora=2")
    whole, cut = (make("1", out=Path("runs", n), steps=8, overrides=settings) for n in ("a", "b"))
    run(whole)
    run_and_die(cut, at=5)
    run(cut)
    one, two = (load_file(f"runs/{n}/model.safetensors") for n in ("a", "b"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any("lora_A" in name for name in one)
    run(make("2", out=Path("runs/stage2"), init=Path("runs/a"), steps=2))
    model = vse.load("runs/stage2", device="cpu")
    assert model.encode_text(["a red square"]).shape == (1, 32)
    with pytest.raises(UserError, match="freeze"):
        make("1", out=Path("runs/x"), overrides=("image.lora=2", "image.freeze=all"))
