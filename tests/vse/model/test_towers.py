"""The towers and the whole model: padding never matters, any input size, batch norm on words."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.vse.world import TINY
from vse.model.backbones import build_backbone
from vse.model.build import make_decoder
from vse.model.d2s import D2SModel
from vse.model.encoding import embed_texts
from vse.model.logits import make_logits
from vse.model.text_batch import TextBatch, pad_texts
from vse.model.tokenizer.tokens import TokenStore
from vse.model.towers import ImageTower, TextTower
from vse.recipes import DecoderConfig, LossConfig

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


def make_model(
    *, decoder: bool = True, head_on_padding: bool = False, align: str = "hinge", **settings: Any
) -> D2SModel:
    """A tiny model in evaluation mode for the loss `align`; `settings` are of the decoder."""
    torch.manual_seed(0)
    config = DecoderConfig(tokens=5, depth=2, heads=2, **settings)
    return D2SModel(
        ImageTower(build_backbone(VIT), width=32),
        TextTower(build_backbone(BERT), width=32, head_on_padding=head_on_padding),
        make_decoder(32, config) if decoder else None,
        residual=config.residual,
        unit_at_test=config.unit_at_test,
        logits=make_logits(LossConfig(align=align), batch_size=4),
    ).eval()


def some_texts(length: int | None = None) -> TextBatch:
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 60, size=n) for n in (9, 4, 6)]
    return pad_texts(texts, pad_id=0, length=length)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "gpo"])
@pytest.mark.parametrize("variant", ["none", "cross", "prefix", "postfix", "surround"])
def test_an_embedding_does_not_depend_on_batch_mates(
    variant: str, pooling: str, residual: bool
) -> None:
    settings = {
        "none": {"decoder": False},
        "cross": {"kind": "cross_attention"},
    }.get(variant, {"placement": variant})
    model = make_model(pooling=pooling, residual=residual, **settings)
    assert not model.reads_padding
    found = model.encode_text(some_texts())
    torch.testing.assert_close(model.encode_text(some_texts(30)), found, rtol=1e-5, atol=1e-6)
    ids = some_texts().ids[1, :4].numpy()
    alone = model.encode_text(pad_texts([ids], pad_id=0))
    torch.testing.assert_close(alone[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["blocks", "cross_attention"])
def test_as_released_the_decoder_reads_padding(kind: str) -> None:
    model = make_model(kind=kind, attend_padding=True, head_on_padding=True)
    assert model.reads_padding
    found = model.encode_text(some_texts())
    further = model.encode_text(some_texts(30))
    assert (further - found).abs().max() > 1e-3
    # Rows of padding are words like any other: what the head makes of them is what is read.
    batch = some_texts()
    t, words = model.text(batch)
    assert model.decoder is not None
    torch.testing.assert_close(found, t + model.decoder(words, mask=None))
    assert batch.mask is not None and words[~batch.mask].abs().min() > 0


def test_as_released_r_has_length_one_at_test_alone() -> None:
    plain, quirk = make_model(), make_model(unit_at_test=True)
    t, words = plain.text(some_texts())
    assert plain.decoder is not None
    r = plain.decoder(words, mask=some_texts().mask)
    assert r.norm(dim=1).min() > 2
    torch.testing.assert_close(plain.encode_text(some_texts()), t + r)
    expected = t + r / r.norm(dim=1, keepdim=True)
    torch.testing.assert_close(quirk.encode_text(some_texts()), expected)
    quirk.training = True  # in training mode, but without dropout
    torch.testing.assert_close(quirk.encode_text(some_texts()), t + r)


def test_texts_that_read_padding_are_encoded_in_the_order_given() -> None:
    rng = np.random.default_rng(1)
    texts = [rng.integers(5, 60, size=n) for n in (9, 3, 4, 12, 2)]
    starts = np.cumsum([0, *map(len, texts)])
    store = TokenStore(np.concatenate(texts), np.zeros(starts[-1], np.int32), starts, 0)
    model = make_model(attend_padding=True, head_on_padding=True)
    found = embed_texts(model, store, pad_id=0, batch_size=2, unit=False)
    for begin in (0, 2, 4):
        expected = model.encode_text(pad_texts(texts[begin : begin + 2], pad_id=0))
        np.testing.assert_allclose(found[begin : begin + 2], expected.detach(), rtol=1e-5)


def test_ids_under_the_padding_do_not_matter() -> None:
    model, batch = make_model(), some_texts()
    assert batch.mask is not None
    garbage = replace(batch, ids=torch.where(batch.mask, batch.ids, 7))
    torch.testing.assert_close(model.encode_text(garbage), model.encode_text(batch))


@pytest.mark.parametrize("head_on_padding", [False, True])
def test_batch_norm_sees_words_only_unless_as_released(head_on_padding: bool) -> None:
    running = []
    for length in (9, 40):
        tower = make_model(head_on_padding=head_on_padding).text.train()
        tower.dropout.p = 0.0
        for part in tower.backbone.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        tower(some_texts(length))
        norm = tower.mlp[1]
        assert isinstance(norm, torch.nn.BatchNorm1d)
        running.append(norm.running_mean)
    assert isinstance(running[0], Tensor) and running[0].abs().sum() > 0
    assert isinstance(running[1], Tensor)
    assert torch.allclose(running[0], running[1], atol=1e-6) is not head_on_padding


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
        assert tower.backbone(pixels).shape[1] == tower.token_count(px)
        assert tower(pixels).shape == (2, 8)


def test_dropped_tokens_are_as_if_they_were_not_there() -> None:
    tower = ImageTower(build_backbone(VIT), width=8).eval()
    pixels = torch.randn(2, 3, 16, 16)
    drop = torch.zeros(2, tower.token_count(16), dtype=torch.bool)
    torch.testing.assert_close(tower(pixels, drop=drop), tower(pixels))
    drop[0, 1:3] = True
    found = tower(pixels, drop=drop)
    states = tower.backbone(pixels)[:1, [0, 3, 4]]
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
