"""The decoder: padding masked, the three placements, depth."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.vse.model import test_towers
from tests.vse.world import TINY
from vse.model.build import describe, make_decoder, rebuild
from vse.model.decoder import CrossAttentionDecoder, Decoder, MaskTokenDecoder
from vse.recipes import DecoderConfig, Recipe, build


def make(**settings: object) -> MaskTokenDecoder:
    torch.manual_seed(0)
    config = DecoderConfig(**{"tokens": 6, "depth": 2, "heads": 2, **settings})  # type: ignore[arg-type]
    return MaskTokenDecoder(16, config).eval()


@pytest.mark.parametrize("placement", ["prefix", "postfix", "surround"])
@pytest.mark.parametrize("pooling", ["mean", "gpo"])
def test_padding_never_matters(placement: str, pooling: str) -> None:
    decoder = make(placement=placement, pooling=pooling)
    words = torch.randn(2, 5, 16)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = decoder(words, mask=mask)
    torch.testing.assert_close(decoder(words[1:, :3], mask=None), found[1:])
    noise = torch.where(mask[..., None], words, torch.full_like(words, 50.0))
    torch.testing.assert_close(decoder(noise, mask=mask), found)


@pytest.mark.parametrize("pooling", ["mean", "gpo"])
def test_padding_never_matters_to_the_cross_attention(pooling: str) -> None:
    torch.manual_seed(0)
    decoder = CrossAttentionDecoder(
        16, DecoderConfig(tokens=6, cross_heads=2, pooling=pooling)
    ).eval()
    words = torch.randn(2, 5, 16)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = decoder(words, mask=mask)
    torch.testing.assert_close(decoder(words[1:, :3], mask=None), found[1:])
    noise = torch.where(mask[..., None], words, torch.full_like(words, 50.0))
    torch.testing.assert_close(decoder(noise, mask=mask), found)


def test_the_cross_attention_by_hand() -> None:
    """mean over tokens of token + out(softmax(q k / sqrt(d)) v), with one head."""
    torch.manual_seed(0)
    decoder = CrossAttentionDecoder(8, DecoderConfig(tokens=3, cross_heads=1)).eval()
    words = torch.randn(1, 4, 8)
    inside, outside = decoder.attention, decoder.attention.out_proj
    assert inside.in_proj_bias is not None and inside.in_proj_weight is not None
    query, key, value = inside.in_proj_weight.split(8)
    biases = inside.in_proj_bias.split(8)
    q = decoder.mask_tokens @ query.T + biases[0]
    k, v = words[0] @ key.T + biases[1], words[0] @ value.T + biases[2]
    seen = (q @ k.T / 8**0.5).softmax(dim=1) @ v
    expected = (decoder.mask_tokens + outside(seen)).mean(dim=0)
    torch.testing.assert_close(decoder(words, mask=None)[0], expected)


@pytest.mark.parametrize(
    ("settings", "kind", "keys"),
    [
        ({}, MaskTokenDecoder, {"mask_tokens", "blocks", "norm"}),
        ({"pooling": "gpo"}, MaskTokenDecoder, {"mask_tokens", "blocks", "norm", "pool"}),
        ({"kind": "cross_attention"}, CrossAttentionDecoder, {"mask_tokens", "attention"}),
    ],
)
def test_a_decoder_is_made_and_made_again_from_its_description(
    settings: dict[str, Any], kind: type[Decoder], keys: set[str]
) -> None:
    values = {
        **{key: TINY[key] for key in ("image", "width")},
        "text": {"config": {**TINY["text"]["config"], "vocab_size": 60}},
        "decoder": {"tokens": 5, "depth": 3, "heads": 4, "cross_heads": 16, **settings},
    }
    recipe = build(Recipe, values)
    made = make_decoder(32, recipe.decoder)
    assert isinstance(made, kind)
    assert {key.split(".")[0] for key in made.state_dict()} == keys
    assert made.mask_tokens.shape == (5, 32)
    if isinstance(made, CrossAttentionDecoder):
        assert made.attention.num_heads == 16
    else:
        assert isinstance(made, MaskTokenDecoder) and len(made.blocks) == 3
        assert {block.heads for block in made.blocks} == {4}
    quirks = replace(recipe.decoder, attend_padding=True, unit_at_test=True, residual=False)
    recipe = replace(recipe, decoder=quirks, text=replace(recipe.text, head_on_padding=True))
    model = test_towers.make_model()
    model.decoder = make_decoder(32, quirks)
    again = rebuild(json.loads(json.dumps(describe(model, recipe))))
    again.load_state_dict(model.state_dict())
    assert isinstance(again.decoder, kind) and again.decoder.attend_padding
    assert again.unit_at_test and not again.residual and again.text.head_on_padding


def test_a_description_from_before_these_settings_is_rebuilt_as_it_was() -> None:
    model = test_towers.make_model()
    values = {**TINY, "text": {"config": {**TINY["text"]["config"], "vocab_size": 60}}}
    described = describe(model, build(Recipe, {k: v for k, v in values.items() if k != "stages"}))
    old = {"tokens": 5, "depth": 2, "heads": 2, "mlp_ratio": 4.0}
    described["decoder"] = {**old, "placement": "prefix", "pooling": "mean", "residual": True}
    del described["text"]["head_on_padding"]
    again = rebuild(described).eval()
    again.load_state_dict(model.state_dict())
    batch = test_towers.some_texts()
    torch.testing.assert_close(again.encode_text(batch), model.encode_text(batch))


def test_placements_differ_by_rounding_alone() -> None:
    """Attention without position codes cannot tell where the mask tokens stand."""
    words, mask = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    found = [make(placement=p)(words, mask=mask) for p in ("prefix", "postfix", "surround")]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_words_and_mask_tokens_both_count() -> None:
    decoder = make()
    words = torch.randn(1, 5, 16)
    found = decoder(words, mask=None)
    assert not torch.allclose(decoder(-words, mask=None), found)
    with torch.no_grad():
        decoder.mask_tokens.neg_()
    assert not torch.allclose(decoder(words, mask=None), found)


def test_without_blocks_the_words_are_not_seen() -> None:
    decoder = make(depth=0)
    out = [decoder(torch.randn(1, 5, 16), mask=None) for _ in range(2)]
    torch.testing.assert_close(out[0], out[1])


def test_size_of_the_published_decoder() -> None:
    count = sum(p.numel() for p in MaskTokenDecoder(512, DecoderConfig()).parameters())
    assert count == pytest.approx(12.7e6, rel=0.01)
