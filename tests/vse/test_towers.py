"""The towers and the whole model: padding never matters, any input size, batch norm on words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.vse.world import TINY
from vse.backbones import build_backbone
from vse.decoder import MaskTokenDecoder
from vse.model import D2SModel
from vse.text_batch import TextBatch, pad_texts
from vse.towers import ImageTower, TextTower

VIT = TINY["image"]["config"]  # type: ignore[index]
SWIN = {
    "model_type": "swin",
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
BERT = {**TINY["text"]["config"], "vocab_size": 60}  # type: ignore[index, dict-item]


def make_model(*, pooling: str = "mean", residual: bool = True, decoder: bool = True) -> D2SModel:
    torch.manual_seed(0)
    made = MaskTokenDecoder(32, tokens=5, depth=2, heads=2, pooling=pooling) if decoder else None
    return D2SModel(
        ImageTower(build_backbone(VIT), width=32),
        TextTower(build_backbone(BERT), width=32),
        made,
        residual=residual,
    ).eval()


def some_texts(length: int | None = None) -> TextBatch:
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 60, size=n) for n in (9, 4, 6)]
    return pad_texts(texts, pad_id=0, length=length)


@pytest.mark.parametrize("pooling", ["mean", "gpo"])
@pytest.mark.parametrize("decoder", [True, False])
def test_an_embedding_does_not_depend_on_batch_mates(pooling: str, decoder: bool) -> None:
    model = make_model(pooling=pooling, decoder=decoder)
    found = model.encode_text(some_texts())
    torch.testing.assert_close(model.encode_text(some_texts(30)), found, rtol=1e-5, atol=1e-6)
    ids = some_texts().ids[1, :4].numpy()
    alone = model.encode_text(pad_texts([ids], pad_id=0))
    torch.testing.assert_close(alone[0], found[1], rtol=1e-5, atol=1e-6)


def test_ids_under_the_padding_do_not_matter() -> None:
    model, batch = make_model(), some_texts()
    assert batch.mask is not None
    garbage = replace(batch, ids=torch.where(batch.mask, batch.ids, 7))
    torch.testing.assert_close(model.encode_text(garbage), model.encode_text(batch))


def test_batch_norm_sees_words_only() -> None:
    running = []
    for length in (9, 40):
        tower = make_model().text.train()
        tower.dropout.p = 0.0
        for part in tower.backbone.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        tower(some_texts(length))
        norm = tower.mlp[1]
        assert isinstance(norm, torch.nn.BatchNorm1d)
        running.append(norm.running_mean)
    assert isinstance(running[0], Tensor) and running[0].abs().sum() > 0
    torch.testing.assert_close(running[0], running[1])


def test_residual_adds_t_and_r() -> None:
    with_t, without = make_model(), make_model(residual=False)
    t, words = with_t.text(some_texts())
    assert with_t.decoder is not None
    r = with_t.decoder(words, mask=some_texts().mask)
    torch.testing.assert_close(with_t.encode_text(some_texts()), t + r)
    torch.testing.assert_close(without.encode_text(some_texts()), r)


def test_the_text_embedding_keeps_its_length_and_the_image_has_length_one() -> None:
    model = make_model(decoder=False)
    lengths = model.encode_text(some_texts()).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((3,), 32**0.5), rtol=1e-3, atol=1e-3)
    v = model.encode_image(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(v.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(("config", "sizes"), [(VIT, (16, 24, 40)), (SWIN, (32, 48, 52))])
def test_any_input_size(config: dict, sizes: tuple[int, ...]) -> None:
    tower = ImageTower(build_backbone(config), width=8)
    for px in sizes:
        pixels = torch.randn(2, 3, px, px)
        states = tower.backbone(pixel_values=pixels, interpolate_pos_encoding=True)
        assert states.last_hidden_state.shape[1] == tower.token_count(px)
        assert tower(pixels).shape == (2, 8)


def test_dropped_tokens_are_as_if_they_were_not_there() -> None:
    tower = ImageTower(build_backbone(VIT), width=8).eval()
    pixels = torch.randn(2, 3, 16, 16)
    drop = torch.zeros(2, tower.token_count(16), dtype=torch.bool)
    torch.testing.assert_close(tower(pixels, drop=drop), tower(pixels))
    drop[0, 1:3] = True
    found = tower(pixels, drop=drop)
    states = tower.backbone(pixel_values=pixels).last_hidden_state[:1, [0, 3, 4]]
    pooled = tower.pool(tower.fc(states), mask=None, lengths=torch.tensor([3]))
    torch.testing.assert_close(found[:1], torch.nn.functional.normalize(pooled, dim=-1))
    torch.testing.assert_close(found[1:], tower(pixels)[1:])


def test_an_image_never_loses_all_its_tokens() -> None:
    tower = ImageTower(build_backbone(VIT), width=8).eval()
    drop = torch.ones(1, tower.token_count(16), dtype=torch.bool)
    assert torch.isfinite(tower(torch.randn(1, 3, 16, 16), drop=drop)).all()


def test_backbones_come_without_pooler() -> None:
    names = [name for name, _ in make_model().named_parameters()]
    assert not [name for name in names if "pooler" in name]
