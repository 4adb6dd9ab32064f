"""Backbones of transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from data.errors import UserError
from tests.vse.model.backbones.checks import (
    EXACT,
    check_checkpointing,
    check_padding,
    check_rebuilt,
    kept_for_backward,
    some_ids,
    some_images,
)
from vse.model.backbones import (
    ImageBackbone,
    TextBackbone,
    build_backbone,
    make_image_backbone,
    make_text_backbone,
)
from vse.model.backbones.base import IMAGENET_MEAN
from vse.model.backbones.probe import count_tokens, idle_weights
from vse.recipes import ImageTowerConfig, TextTowerConfig

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
VIT = {"model_type": "vit", "image_size": 32, "patch_size": 8, **SMALL}
SWIN = {
    "model_type": "swin",
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
IMAGES: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "swin": SWIN,
    "dinov2": {"model_type": "dinov2", "image_size": 32, "patch_size": 8, **SMALL},
    "siglip": {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **SMALL},
    "dinov3": {"model_type": "dinov3_vit", "image_size": 32, "patch_size": 8, **SMALL},
    "dinov3 convnext": {
        "model_type": "dinov3_convnext",
        "hidden_sizes": [8, 8, 16, 32],
        "depths": [1, 1, 1, 1],
    },
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 8, 16, 32], "depths": [1, 1, 1, 1]},
}
BERT = {"model_type": "bert", "vocab_size": 60, **SMALL}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2}
TEXTS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": {"model_type": "roberta", "vocab_size": 60, "pad_token_id": 1, **SMALL},
    "mpnet": {"model_type": "mpnet", "vocab_size": 60, **SMALL},
    "t5": {"model_type": "t5", "vocab_size": 60, **T5},
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind: str) -> None:
    backbone = build_backbone(IMAGES[kind])
    assert isinstance(backbone, ImageBackbone) and backbone.mean == IMAGENET_MEAN
    counts = []
    for px in (32, 64, 96):
        tokens = backbone.eval()(some_images(px))
        assert tokens.ndim == 3 and tokens.shape[2] == backbone.width
        counts.append(tokens.shape[1])
    assert counts == sorted(set(counts))
    check_rebuilt(backbone, px=32)


def test_tokens_are_the_last_hidden_state_of_the_library() -> None:
    backbone = build_backbone(VIT).eval()
    model = AutoModel.from_config(AutoConfig.for_model(**VIT), add_pooling_layer=False).eval()
    model.load_state_dict(backbone.state_dict())
    expected = model(pixel_values=some_images(32)).last_hidden_state
    torch.testing.assert_close(backbone(some_images(32)), expected, **EXACT)
    assert backbone(some_images(32)).shape == (2, 17, 32)  # [CLS] too


def test_a_model_within_the_model_is_read() -> None:
    """DINOv3 calls its encoder `model`, as we call the whole."""
    backbone = build_backbone(IMAGES["dinov3"])
    assert isinstance(backbone, ImageBackbone) and backbone.block_count() == 2
    assert count_tokens(backbone, 32) == 1 + 16
    assert idle_weights(backbone, px=32) == ("embeddings.mask_token",)
    backbone.freeze(1)
    layers: Any = backbone.get_submodule("model.layer")
    assert [layer.training for layer in layers] == [False, True]


@pytest.mark.parametrize("kind", TEXTS)
def test_texts(kind: str) -> None:
    backbone = build_backbone(TEXTS[kind])
    assert isinstance(backbone, TextBackbone)
    pad_id = TEXTS[kind].get("pad_token_id", 0)
    check_padding(backbone, pad_id=pad_id)
    check_rebuilt(backbone)


def test_positions_that_the_padding_takes_are_not_offered() -> None:
    settings = {**TEXTS["roberta"], "max_position_embeddings": 20}
    backbone = build_backbone(settings).eval()
    assert isinstance(backbone, TextBackbone) and backbone.positions == 18
    assert backbone(torch.full((1, 18), 7), None).shape == (1, 18, 32)
    assert build_backbone(TEXTS["t5"]).positions is None


@pytest.mark.parametrize("config", [VIT, SWIN, BERT], ids=lambda config: config["model_type"])
def test_checkpointing_gives_the_same_gradients_for_less_memory(config: dict[str, Any]) -> None:
    inputs = some_ids() if config is BERT else (some_images(32),)
    check_checkpointing(lambda: build_backbone(config), inputs)
    backbone = build_backbone(config)
    before = kept_for_backward(backbone, inputs)
    backbone.checkpoint_gradients()
    assert kept_for_backward(backbone, inputs) < before / 2


def test_by_folder_with_and_without_its_weights(tmp_path: Path) -> None:
    made = build_backbone(BERT)
    made.model.save_pretrained(tmp_path / "bert")
    sizes = {"vocab_size": 60, "pad_id": 0}
    name = str(tmp_path / "bert")
    loaded = make_text_backbone(TextTowerConfig(name=name), **sizes)
    torch.testing.assert_close(loaded.state_dict(), made.state_dict(), **EXACT)
    random = make_text_backbone(TextTowerConfig(name=name, pretrained=False), **sizes)
    weight = "encoder.layer.0.attention.self.query.weight"
    assert random.state_dict().keys() == made.state_dict().keys()
    assert not torch.equal(random.state_dict()[weight], made.state_dict()[weight])
    with pytest.raises(UserError, match="is a text tower: image needs an image tower"):
        make_image_backbone(ImageTowerConfig(name=name))


def test_weights_in_half_precision_are_trained_in_full(tmp_path: Path) -> None:
    """Many checkpoints are stored so, and transformers keeps their type by default."""
    build_backbone(VIT).model.half().save_pretrained(tmp_path / "vit")
    for pretrained in (True, False):
        settings = ImageTowerConfig(name=str(tmp_path / "vit"), px=32, pretrained=pretrained)
        made = make_image_backbone(settings)
        assert {value.dtype for value in made.parameters()} == {torch.float32}
        assert made(some_images(32)).dtype == torch.float32


def test_weights_that_cannot_be_had() -> None:
    with pytest.raises(UserError, match="hf download nobody/vit.*--set image.name=FOLDER"):
        make_image_backbone(ImageTowerConfig(name="nobody/vit"))
    with pytest.raises(UserError, match="hf download nobody/bert.*--set text.name=FOLDER"):
        make_text_backbone(TextTowerConfig(name="nobody/bert"), vocab_size=60, pad_id=0)


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    build_backbone(VIT).model.save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="cannot load a backbone from .*vit"):
        make_image_backbone(ImageTowerConfig(name=str(tmp_path / "vit")))


def test_an_image_tower_without_tokens() -> None:
    """Its output has feature maps under another name."""
    made = build_backbone({"model_type": "hgnet_v2"})
    assert isinstance(made, ImageBackbone)
    with pytest.raises(UserError, match="does not accept 64 x 64 pixels.*last_hidden_state"):
        count_tokens(made, 64)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "nothing"}, "cannot build a backbone from .*nothing"),
        ({**VIT, "hidden_act": "none"}, "cannot build a backbone"),
        ({"model_type": "clip"}, "more than one tower.*open_clip:ARCH/WEIGHTS"),
        ({"model_type": "wav2vec2", **SMALL}, "reads input_values, not images or texts"),
        ({"library": "tmm", "name": "x"}, "unknown library 'tmm': use transformers, timm or"),
    ],
)
def test_what_is_no_backbone_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(config)
