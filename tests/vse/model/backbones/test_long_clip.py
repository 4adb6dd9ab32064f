"""CLIP checkpoints with more text positions than their architecture, against open_clip."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from tests.vse.model.backbones.checks import check_rebuilt
from tests.vse.model.backbones.clips import MODELS, TEXT, register
from vse.model.backbones import TextBackbone, make_text_backbone
from vse.recipes import TextTowerConfig

LONG = 40
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = {**MODELS["d2s-vit"], "text_cfg": {**TEXT, "context_length": LONG}}
    register(tmp_path_factory.mktemp("clips"), **{"d2s-long": config})


def make_long(seed: int = 0) -> Any:
    """A model of open_clip with 40 positions, in its older layout: no `text.` before the names."""
    torch.manual_seed(seed)
    model: Any = open_clip.create_model("d2s-long").eval()
    nn.init.normal_(model.positional_embedding)
    return model


def text_of(path: Path, **settings: Any) -> TextBackbone:
    config = TextTowerConfig(name=f"open_clip:d2s-vit/{path}", **settings)
    return make_text_backbone(config, vocab_size=0, pad_id=0).eval()  # type: ignore[return-value]


def read_tokens(model: Any, ids: Tensor) -> Tensor:
    """All tokens after the last norm, as open_clip computes them before it takes one."""
    x = model.token_embedding(ids) + model.positional_embedding[: ids.shape[1]]
    mask = model.attn_mask[: ids.shape[1], : ids.shape[1]]
    found: Tensor = model.ln_final(model.transformer(x, attn_mask=mask))
    return found


def test_long_clip_reads_its_first_20_positions_and_the_trained_others(tmp_path: Path) -> None:
    model = make_long()
    stored = model.state_dict()
    codes = stored["positional_embedding"].clone()
    # Each parameter is only read in its own part.
    first, others = torch.randn(2, LONG, codes.shape[1])
    first[:20], others[20:] = codes[:20], codes[20:]
    torch.save(
        {**stored, "positional_embedding": first, "positional_embedding_res": others},
        tmp_path / "longclip.pt",
    )
    tower = text_of(tmp_path / "longclip.pt", max_tokens=LONG)
    ids = torch.randint(5, 50, (2, 35))
    torch.testing.assert_close(tower(ids, None), read_tokens(model, ids), **CLOSE)
    assert tower.clip_head is not None and tower.clip_head.weight is not None
    torch.testing.assert_close(tower.clip_head.weight, model.text_projection.T)


def test_positions_of_a_longer_checkpoint_are_not_squeezed(tmp_path: Path) -> None:
    model = make_long()
    torch.save(model.state_dict(), tmp_path / "own.pt")
    tower = text_of(tmp_path / "own.pt", max_tokens=LONG)
    assert tower.positions == LONG
    ids = torch.randint(5, 50, (2, LONG))
    torch.testing.assert_close(tower(ids, None), read_tokens(model, ids), **CLOSE)
    check_rebuilt(tower)
