"""Both towers of open_clip's models against what open_clip itself computes."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
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
from tests.vse.model.backbones.clips import MODELS, TEXT, register, write_weights
from vse.model.backbones import (
    ImageBackbone,
    TextBackbone,
    build_backbone,
    make_image_backbone,
    make_text_backbone,
)
from vse.model.backbones.huggingface import HuggingFaceText
from vse.model.backbones.probe import idle_weights
from vse.model.backbones.timm import TimmImage
from vse.recipes import ImageTowerConfig, TextTowerConfig

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    register(folder)
    return folder


def image_of(name: str, *, px: int = 32, **settings: Any) -> ImageBackbone:
    return make_image_backbone(ImageTowerConfig(name=name, px=px, **settings)).eval()  # type: ignore[return-value]


def text_of(name: str, *, pad_id: int = 0, **settings: Any) -> TextBackbone:
    settings = TextTowerConfig(name=name, **settings)  # type: ignore[assignment]
    return make_text_backbone(settings, vocab_size=0, pad_id=pad_id).eval()  # type: ignore


def pad(ids: Tensor, length: int, pad_id: int) -> Tensor:
    return nn.functional.pad(ids, (0, length - ids.shape[1]), value=pad_id)


def test_the_tokens_of_the_vit_at_its_own_size_and_at_another(tmp_path: Path) -> None:
    model: Any = write_weights("d2s-vit", tmp_path / "w.pt")
    name = f"open_clip:d2s-vit/{tmp_path / 'w.pt'}"
    backbone = image_of(name)
    model.visual.output_tokens = True
    found = backbone(some_images(32))
    assert found.shape == (2, 17, 32)  # [CLS] and patches
    torch.testing.assert_close(found[:, 1:], model.visual(some_images(32))[1], **CLOSE)
    torch.testing.assert_close(found[:, 0] @ model.visual.proj, model.visual(some_images(32))[0])
    # open_clip resizes the position codes when it loads weights into a model of another size.
    larger: Any = open_clip.create_model(
        "d2s-vit", pretrained=str(tmp_path / "w.pt"), force_image_size=48, force_custom_text=True
    ).eval()
    larger.visual.output_tokens = True
    torch.testing.assert_close(
        backbone(some_images(48))[:, 1:], larger.visual(some_images(48))[1], **CLOSE
    )


def test_the_grid_of_the_resnet(tmp_path: Path) -> None:
    model: Any = write_weights("d2s-resnet", tmp_path / "w.pt")
    backbone = image_of(f"open_clip:d2s-resnet/{tmp_path / 'w.pt'}", px=64)
    grids: list[Tensor] = []
    model.visual.attnpool.register_forward_pre_hook(lambda module, args: grids.append(args[0]))
    model.visual(some_images(64))
    expected = grids[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(backbone(some_images(64)), expected, **CLOSE)
    with pytest.raises(UserError, match="CLIP's ResNet cannot checkpoint gradients"):
        backbone.checkpoint_gradients()


@pytest.mark.parametrize("name", ["d2s-vit", "d2s-resnet", "d2s-coca"])
def test_the_tokens_of_texts(name: str, tmp_path: Path) -> None:
    """Causal, attending to padding (as it was trained), and with CoCa's class token."""
    model: Any = write_weights(name, tmp_path / "w.pt")
    backbone = text_of(f"open_clip:{name}/{tmp_path / 'w.pt'}", pad_id=3)
    assert backbone.positions == 16 and backbone.width == 32
    model.text.output_tokens = True
    ids, mask = some_ids(pad_id=3)
    expected = model.text(pad(ids, 16, 3))[1][:, :7]
    torch.testing.assert_close(backbone(ids, mask)[mask], expected[mask], **CLOSE)
    check_padding(backbone, pad_id=3)
    check_rebuilt(backbone)
    assert idle_weights(backbone, px=0) == ()


@pytest.mark.parametrize("name", ["d2s-vit", "d2s-resnet", "d2s-coca", "d2s-timm"])
def test_images_rebuilt_with_nothing_idle(name: str) -> None:
    px = 96 if name == "d2s-timm" else 64
    backbone = image_of(f"open_clip:{name}", px=px, pretrained=False)
    assert backbone.mean == open_clip.OPENAI_DATASET_MEAN
    assert idle_weights(backbone, px=px) == ()
    assert backbone.block_count() == {"d2s-resnet": 4, "d2s-timm": 12}.get(name, 2)
    check_rebuilt(backbone, px=px)


def test_a_tower_from_timm_is_timms(tmp_path: Path) -> None:
    model: Any = write_weights("d2s-timm", tmp_path / "w.pt")
    name = f"open_clip:d2s-timm/{tmp_path / 'w.pt'}"
    backbone = image_of(name, px=224)
    assert isinstance(backbone, TimmImage)
    expected = model.visual.trunk.forward_features(some_images(224))
    torch.testing.assert_close(backbone(some_images(224)), expected, **CLOSE)
    assert image_of(name, px=96)(some_images(96)).shape == (2, 37, 192)


def test_a_tower_from_transformers_is_that_of_transformers(known: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("roberta", vocab_size=60, intermediate_size=32, **sizes)
    AutoModel.from_config(config).save_pretrained(known / "roberta")
    text = {"hf_model_name": str(known / "roberta"), "hf_pooler_type": "cls_pooler"}
    register(known, **{"d2s-roberta": {**MODELS["d2s-vit"], "text_cfg": text}})
    model: Any = write_weights("d2s-roberta", known / "w.pt")
    backbone = text_of(f"open_clip:d2s-roberta/{known / 'w.pt'}", pad_id=1)
    assert isinstance(backbone, HuggingFaceText)
    ids, mask = some_ids(pad_id=1)
    expected = model.text.transformer(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(backbone(ids, mask)[mask], expected[mask], **CLOSE)
    check_rebuilt(backbone)


def test_by_folder_with_its_own_normalisation(tmp_path: Path) -> None:
    model: Any = open_clip.create_model("d2s-vit")
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    config = {"model_cfg": MODELS["d2s-vit"], "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    backbone = image_of(f"open_clip:{tmp_path}")
    assert backbone.mean == (0.1, 0.2, 0.3) and backbone.std == open_clip.OPENAI_DATASET_STD
    weight = "transformer.resblocks.0.attn.in_proj_weight"
    for name, part in ((f"model.{weight}", model.visual), (f"model.{weight}", model)):
        tower = backbone if part is model.visual else text_of(f"open_clip:{tmp_path}")
        torch.testing.assert_close(tower.state_dict()[name], part.state_dict()[weight], **EXACT)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load open_clip:.*could not be loaded"):
        image_of(f"open_clip:{tmp_path}")


def test_weights_decide_over_the_activation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ViT-B-32/openai was trained with QuickGELU, which the architecture's file does not say."""
    write_weights("d2s-vit", tmp_path / "w.pt")
    tag = {"url": "", "hf_hub": "", "file": str(tmp_path / "w.pt"), "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "d2s-vit", {"mine": tag})
    monkeypatch.setattr(
        open_clip.factory, "download_pretrained", lambda cfg, cache_dir=None: cfg["file"]
    )
    backbone: Any = image_of("open_clip:d2s-vit/mine")
    assert type(backbone.model.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert backbone.describe()["quick_gelu"] is True
    check_rebuilt(backbone, px=32)


def test_checkpointing_gives_the_same_gradients_for_less_memory() -> None:
    image, text = (
        {"library": "open_clip", key: MODELS["d2s-vit"][key]} for key in ("vision_cfg", "text_cfg")
    )
    for config, inputs in ((image, (some_images(32),)), (text, some_ids())):
        check_checkpointing(lambda config=config: build_backbone(config), inputs)  # type: ignore
        backbone = build_backbone(config)
        before = kept_for_backward(backbone, inputs)
        backbone.checkpoint_gradients()
        assert kept_for_backward(backbone, inputs) < 0.8 * before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-33/openai", "has no model ViT-B-33; did you mean open_clip:ViT-B-32?"),
        ("open_clip:ViT-B-32", "does not specify weights: .*open_clip:ViT-B-32/openai"),
        ("open_clip:ViT-B-32/opnai", "does not specify weights"),
        ("open_clip:ViT-B-32/openai", "hf download timm/vit_base_patch32_clip_224.openai"),
        ("open_clip:hf-hub:nobody/clip", "hf download nobody/clip.*text.pretrained=false"),
    ],
)
def test_what_cannot_be_had_is_said(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        text_of(name)


@pytest.mark.parametrize(
    ("part", "reaching"),
    [("vision_cfg", {"timm_model_name": "hf-hub:a/b"}), ("text_cfg", {"hf_model_name": "a/b"})],
)
def test_a_description_does_not_reach_out(part: str, reaching: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="describe that tower as one of t"):
        build_backbone({"library": "open_clip", part: reaching})


def test_a_config_that_open_clip_refuses() -> None:
    wrong = {"library": "open_clip", "text_cfg": {**TEXT, "widht": 3}}
    with pytest.raises(UserError, match="cannot build a tower of open_clip from .*widht"):
        build_backbone(wrong)
