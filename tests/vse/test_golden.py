"""The pieces against numbers of the code released with the paper, where those numbers are at hand.

A folder with `vit_cos.json`, `vit_cos.npz`, ... and `formula.py`, which gives every weight as a
function of its name: shared/golden beside the repository, or what D2S_GOLDEN names.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.vse.released_keys import our_key
from vse.backbones import build_backbone
from vse.decoder import MaskTokenDecoder
from vse.losses import cosine_scores, distill, hinge
from vse.model import D2SModel
from vse.text_batch import TextBatch, pad_texts
from vse.towers import ImageTower, TextTower

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("D2S_GOLDEN") or ROOT.parent / "shared" / "golden")
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no golden numbers here; D2S_GOLDEN can name their folder"
)


@pytest.fixture(params=["vit_cos", "vit_l2_gpo"])
def golden(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Any]:
    path = FOLDER / request.param
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.with_suffix(".json").read_text()), dict(arrays)


def make_model(info: dict[str, Any]) -> D2SModel:
    meta = info["meta"]
    small = {"hidden_size": 768, "num_hidden_layers": 1, "intermediate_size": 64}
    image = build_backbone({"model_type": "vit", "image_size": 32, "patch_size": 16, **small})
    bert = {"model_type": "bert", "vocab_size": meta["vocab"], "max_position_embeddings": 64}
    model = D2SModel(
        ImageTower(image, width=512),
        TextTower(build_backbone({**bert, **small}), width=512),
        MaskTokenDecoder(
            512,
            tokens=meta["tokens"],
            depth=meta["depth"],
            placement="postfix",
            pooling="gpo" if meta["gpo"] else "mean",
        ),
    )
    spec = importlib.util.spec_from_file_location("formula", FOLDER / "formula.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = {}
    for key, shape in {**info["stage2_keys"], **info["stage1_keys"]}.items():
        ours = our_key(key)
        if ours is not None and not key.endswith("num_batches_tracked"):
            made[ours] = torch.from_numpy(module.formula(key, tuple(shape), meta["seed"]))
    missing, unexpected = model.load_state_dict(made, strict=False)
    assert not unexpected
    assert all("position_ids" in key or "num_batches" in key for key in missing), missing
    return model.eval()


def texts(ids: np.ndarray, lengths: np.ndarray) -> TextBatch:
    return pad_texts([row[:n] for row, n in zip(ids, lengths, strict=True)], pad_id=0)


def close(found: torch.Tensor, expected: np.ndarray) -> None:
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-5 * scale)


def test_stage_1_embeddings_and_losses(golden: tuple[dict[str, Any], Any]) -> None:
    info, arrays = golden
    model = make_model(info)
    v = model.encode_image(torch.from_numpy(arrays["images"]))
    t, words = model.text(texts(arrays["dense_ids"], arrays["dense_len"]))
    close(v, arrays["s1_image_emb"])
    close(t, arrays["s1_text_emb"])
    real = np.arange(words.shape[1])[None, :] < arrays["dense_len"][:, None]
    close(words[torch.from_numpy(real)], arrays["s1_word_feat"][real])
    index = torch.from_numpy(arrays["image_index"])
    for hardest, name in ((False, "s1_loss_sum_alpha0.7"), (True, "s1_loss_hard_alpha0.7")):
        loss = 0.7 * hinge(cosine_scores(v, t), index, margin=0.2, hardest=hardest)
        assert loss.item() == pytest.approx(info[name], rel=1e-4)


def test_gradients_of_stage_1(golden: tuple[dict[str, Any], Any]) -> None:
    info, arrays = golden
    model = make_model(info)
    v = model.encode_image(torch.from_numpy(arrays["images"]))
    t, _ = model.text(texts(arrays["dense_ids"], arrays["dense_len"]))
    index = torch.from_numpy(arrays["image_index"])
    (0.7 * hinge(cosine_scores(v, t), index, margin=0.2, hardest=True)).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    floor = 1e-5 * max(info["s1_gradnorm_hard"].values())
    for key, norm in info["s1_gradnorm_hard"].items():
        ours = our_key(key)
        if ours in grads:
            assert float(grads[ours].norm()) == pytest.approx(norm, rel=1e-4, abs=floor), key


def test_stage_2_where_nothing_is_padded(golden: tuple[dict[str, Any], Any]) -> None:
    """The released decoder attends to padding; texts as long as the longest have none."""
    info, arrays = golden
    model = make_model(info)
    assert model.decoder is not None
    batch = texts(arrays["sparse_ids"], arrays["sparse_len"])
    t, words = model.text(batch)
    close(t, arrays["s2_sparse_emb"])
    full = torch.from_numpy(arrays["sparse_len"] == arrays["sparse_ids"].shape[1])
    r = model.decoder(words[full], mask=None)
    close(r, arrays["s2_decoder_mean"][full.numpy()])


def test_distillation_is_part_of_the_loss(golden: tuple[dict[str, Any], Any]) -> None:
    info, arrays = golden
    kind = {"cos": "cosine", "l2": "l2", "l1": "l1"}[info["meta"]["distill_loss"]]
    t = torch.from_numpy(arrays["s2_sparse_emb"] + arrays["s2_decoder_mean"])
    v, teacher = (torch.from_numpy(arrays[k]) for k in ("s2_image_emb", "s2_teacher_emb"))
    index = torch.from_numpy(arrays["image_index"])
    align = hinge(cosine_scores(v, t), index, margin=0.2, hardest=True)
    total = align + distill(t, teacher, kind=kind)
    assert float(total) == pytest.approx(info["s2_loss_hard"], rel=1e-4)
