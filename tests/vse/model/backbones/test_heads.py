"""A model that begins with a CLIP's projections, scale and bias: its tokens are projected alike."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.errors import UserError
from tests.vse.model.backbones.checks import some_images
from tests.vse.model.backbones.clips import TEXT, register, write_weights
from vse.model.build import assemble
from vse.model.d2s import D2SModel
from vse.model.text_batch import pad_texts
from vse.recipes import Recipe, build

SIGLIP = {
    "embed_dim": 192,
    "init_logit_bias": -7,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    "custom_text": True,
}


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory: pytest.TempPathFactory) -> None:
    register(tmp_path_factory.mktemp("clips"), **{"d2s-siglip": SIGLIP})


def start(name: str, path: Path, align: str, **changes: Any) -> tuple[D2SModel, Any]:
    """A model that begins with random weights of the named CLIP, and that CLIP."""
    clip: Any = write_weights(name, path / "w.pt")
    full = f"open_clip:{name}/{path / 'w.pt'}"
    values: dict[str, Any] = {
        "image": {"name": full, "px": 32},
        "text": {"name": full, "max_tokens": 16},
        "loss": {"align": align},
        "decoder": {"heads": 2},
        "heads": "clip",
        "width": 16,
    }
    recipe = build(Recipe, {**values, **changes})
    tokenizer = SimpleNamespace(vocab_size=49408, pad_id=0)
    return assemble(recipe, tokenizer=tokenizer, decoder=False).eval(), clip


def test_a_clip(tmp_path: Path) -> None:
    clip: Any = write_weights("d2s-vit", tmp_path / "w.pt")
    with torch.no_grad():
        clip.logit_scale.fill_(3.5)
    model, clip = start("d2s-vit", tmp_path, "infonce")
    images = some_images(32)
    tokens = model.image.fc(model.image.backbone(images))
    torch.testing.assert_close(tokens[:, 0], clip.encode_image(images), rtol=1e-5, atol=1e-5)
    ids = torch.tensor([[3, 4, 49407]])
    words = model.text.word_features(pad_texts([ids[0].numpy()], pad_id=0))
    torch.testing.assert_close(words[:, 2], clip.encode_text(torch.nn.functional.pad(ids, (0, 13))),
                               rtol=1e-5, atol=1e-5)  # fmt: skip
    assert model.logits is not None
    assert model.logits.log_scale.item() == pytest.approx(clip.logit_scale.item(), abs=1e-6)


def test_towers_of_two_clips_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    write_weights("d2s-vit", other)
    text = {"name": f"open_clip:d2s-vit/{other}", "max_tokens": 16}
    with pytest.raises(UserError, match="other.pt.*both towers of one CLIP"):
        start("d2s-vit", tmp_path, "infonce", text=text)


def test_a_siglip_with_its_bias(tmp_path: Path) -> None:
    model, clip = start("d2s-siglip", tmp_path, "siglip", width=192)
    text = clip.text.text_projection
    assert torch.equal(model.text.fc.weight, text.weight)
    assert torch.equal(model.text.fc.bias, text.bias)
    assert torch.equal(model.image.fc.weight, clip.visual.head.proj.weight)
    assert model.logits is not None and model.logits.bias is not None
    assert model.logits.bias.item() == -7.0
    assert model.logits.log_scale.item() == pytest.approx(clip.logit_scale.item(), abs=1e-6)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="width=16"):
        start("d2s-vit", tmp_path, "infonce", width=32)
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16}  # fmt: skip
    with pytest.raises(UserError, match="text tower"):
        start("d2s-vit", tmp_path, "infonce", text={"config": bert})


def test_without_it_the_heads_are_random_as_ever(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, clip = start("d2s-vit", tmp_path, "infonce", heads="random")
    assert not torch.allclose(model.image.fc.weight, clip.visual.proj.T)
