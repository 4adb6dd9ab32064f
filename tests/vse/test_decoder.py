"""The decoder: padding masked, the three placements, depth."""

import pytest
import torch

from vse.decoder import MaskTokenDecoder


def make(**settings: object) -> MaskTokenDecoder:
    torch.manual_seed(0)
    return MaskTokenDecoder(16, **{"tokens": 6, "depth": 2, "heads": 2, **settings}).eval()  # type: ignore[arg-type]


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
    count = sum(p.numel() for p in MaskTokenDecoder(512).parameters())
    assert count == pytest.approx(12.7e6, rel=0.01)
