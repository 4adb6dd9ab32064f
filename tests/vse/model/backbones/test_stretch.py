"""Positions drawn out: Long-CLIP's formula, and towers that read what they could not before."""

from typing import Any

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from tests.vse.model.backbones.checks import check_padding, check_rebuilt
from vse.model.backbones import TextBackbone, make_text_backbone
from vse.model.backbones.stretch import stretch_codes
from vse.recipes import TextTowerConfig

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP = {"model_type": "clip_text_model", "intermediate_size": 16, "bos_token_id": 1, **SIZES}
OPEN = {"width": 16, "heads": 2, "layers": 1}
TOWERS: dict[str, dict[str, Any]] = {
    "transformers' CLIP": {**CLIP, "eos_token_id": 2, "max_position_embeddings": 77},
    "open_clip's CLIP": {"library": "open_clip", "text_cfg": {**OPEN, "context_length": 77}},
    "open_clip's SigLIP": {
        "library": "open_clip",
        "text_cfg": {**OPEN, "context_length": 64, "no_causal_mask": True},
    },
    "CoCa": {"library": "open_clip", "text_cfg": {**OPEN, "context_length": 76, "embed_cls": True}},
}


def by_long_clip(old: Tensor) -> Tensor:
    """As its authors' `load_from_clip` writes it, by hand."""
    length, keep = len(old), 20
    new = torch.zeros(4 * length - 3 * keep, old.shape[1])
    new[:keep] = old[:keep]
    for i in range(length - 1 - keep):
        for part in range(4):
            mixed = (4 - part) * old[i + keep] / 4 + part * old[i + 1 + keep] / 4
            new[4 * i + part + keep] = mixed
    for part in range(4):
        step = (old[length - 1] - old[length - 2]) / 4
        new[4 * length - 3 * keep - 4 + part] = old[length - 1] + part * step
    return new


def make(kind: str, **settings: Any) -> TextBackbone:
    config = TextTowerConfig(config=TOWERS[kind], **settings)
    torch.manual_seed(0)
    return make_text_backbone(config, vocab_size=50, pad_id=0).eval()


def test_77_positions_become_248_as_in_long_clip() -> None:
    codes = torch.randn(77, 8, generator=torch.Generator().manual_seed(1))
    found = stretch_codes(codes, 248)
    torch.testing.assert_close(found, by_long_clip(codes), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", TOWERS)
def test_a_tower_reads_longer_texts_and_short_ones_as_before(kind: str) -> None:
    before, after = make(kind), make(kind)
    assert before.positions is not None
    after.stretch_positions(248)
    assert after.positions == 248
    ids = torch.randint(3, 50, (2, 200), generator=torch.Generator().manual_seed(0))
    long = after(ids, None)
    assert long.shape == (2, 200, 16) and long.isfinite().all()
    if kind != "open_clip's SigLIP":  # which reads its padding
        short = ids[:, :20]
        torch.testing.assert_close(after(short, None), before(short, None), rtol=1e-5, atol=1e-6)
    # Beyond what it had: the order of words counts there.
    swapped = ids.clone()
    swapped[:, [150, 160]] = ids[:, [160, 150]]
    assert not torch.allclose(after(swapped, None)[:, 170], long[:, 170], atol=1e-6)
    check_rebuilt(after)
    check_padding(after)


@pytest.mark.parametrize("positions", [77, 10])
def test_positions_become_no_fewer(positions: int) -> None:
    with pytest.raises(UserError, match="positions"):
        make("open_clip's CLIP").stretch_positions(positions)


def test_a_bert_has_enough() -> None:
    config = {"model_type": "bert", "intermediate_size": 16, **SIZES}
    tower = make_text_backbone(TextTowerConfig(config=config), vocab_size=50, pad_id=0)
    with pytest.raises(UserError, match="CLIP"):
        tower.stretch_positions(1000)
