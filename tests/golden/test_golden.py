"""Our model against the released code: embeddings, losses, gradient norms, learning rates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.golden import ours
from tests.golden.check import DifferenceError, compare, main
from tests.golden.pair import Pair
from tests.golden.small import draw_images, read_small, small_names
from vse.model.d2s import D2SModel

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("D2S_GOLDEN") or ROOT.parent / "shared" / "golden")


@pytest.mark.parametrize("name", small_names())
def test_every_number_is_the_released_codes(name: str) -> None:
    pair = read_small(name)
    counts = compare(pair)
    assert counts["arrays"] == 8 and counts["losses"] == 3
    assert counts["gradient norms"] > 200 and counts["learning rates"] > 150
    assert not [kind for kind in counts if "unknown" in kind]


def test_both_backbones_both_decoders_and_all_distances_are_there() -> None:
    pairs = [read_small(name) for name in small_names()]
    keys = " ".join(key for pair in pairs for key in pair.shapes[2])
    for part in (".layers.0.blocks.1.", ".encoder.layer.0.", "cross_attn", "pooling.gru"):
        assert part in keys
    assert {(p.meta["residual"], p.meta["distill_loss"]) for p in pairs} >= {
        (True, "cos"),
        (True, "l2"),
        (False, "cos"),
    }


@pytest.mark.parametrize("name", ["vit_cos", "vit_l2_gpo"])
def test_whole_pairs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not FOLDER.is_dir():
        pytest.skip("no whole golden pairs here; D2S_GOLDEN can name their folder")
    assert main([str(FOLDER / name)]) == 0
    assert f"{name}: the same within 0.0001" in capsys.readouterr().out


def only(pair: Pair, stage: int) -> Pair:
    """The pair without its other stage, which costs time."""
    return replace(pair, shapes={stage: pair.shapes[stage]})


def bend(array: np.ndarray) -> np.ndarray:
    """The largest number of an array, two ten-thousandths larger."""
    bent = array.copy()
    bent.ravel()[np.abs(array).argmax()] *= 1.0002
    return bent


def bend_array(name: str) -> Callable[[Pair], Pair]:
    return lambda pair: replace(pair, arrays={**pair.arrays, name: bend(pair.arrays[name])})


def bend_number(group: str, key: str | None = None) -> Callable[[Pair], Pair]:
    def change(pair: Pair) -> Pair:
        value = pair.numbers[group]
        if isinstance(value, float):
            return replace(pair, numbers={**pair.numbers, group: value * 1.0002})
        assert key is not None
        bent = {**value, key: value[key] * 1.0002}
        return replace(pair, numbers={**pair.numbers, group: bent})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bend_array("s1_word_feat"), "^s1_word_feat: .* instead of .*; 1 of"),
        (bend_array("s2_test_text_emb"), "^s2_test_text_emb: .* instead of .*; 1 of"),
        (bend_number("s1_loss_sum_alpha0.7"), "^s1_loss_sum_alpha0.7: "),
        (bend_number("s2_loss_hard"), "^s2_loss_hard: "),
        (bend_number("s1_gradnorm_sum", "txt_enc.fc.weight"), "^s1_gradnorm_sum: txt_enc.fc"),
        (
            bend_number("s2_gradnorm_hard", "prompt_learner.prompt_tokens"),
            "^s2_gradnorm_hard: prompt_learner.prompt_tokens is",
        ),
        (bend_number("s2_lr", "txt_enc.bert.embeddings.LayerNorm.bias"), "^s2_lr: txt_enc.bert"),
    ],
)
def test_what_differs_is_named(change: Callable[[Pair], Pair], message: str) -> None:
    with pytest.raises(DifferenceError, match=message):
        compare(only(change(read_small("vit_cos")), int(message[2])))


def test_other_weights_than_the_models_are_named() -> None:
    pair = read_small("vit_cos")
    more = {**pair.shapes[1], "txt_enc.extra.weight": (3,)}
    with pytest.raises(DifferenceError, match="stage1_keys: .*txt_enc.extra.weight"):
        compare(replace(pair, shapes={1: more}))
    fewer = {k: s for k, s in pair.shapes[1].items() if k != "txt_enc.ln.bias"}
    with pytest.raises(DifferenceError, match="stage1_keys: .*text.norm.bias"):
        compare(replace(pair, shapes={1: fewer}))


@pytest.mark.parametrize(
    ("mend", "name"),
    [
        (lambda model: setattr(model.text, "head_on_padding", False), "s1_word_feat"),
        (lambda model: setattr(model.decoder, "attend_padding", False), "s2_decoder_mean"),
        (lambda model: setattr(model, "unit_at_test", False), "s2_test_text_emb"),
        (lambda model: setattr(model, "residual", False), "s2_test_text_emb"),
    ],
)
def test_each_setting_of_the_recipe_is_needed(
    mend: Callable[[D2SModel], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ours.build

    def mended(pair: Pair, stage: int) -> D2SModel:
        model = build(pair, stage)
        if model.decoder is not None or name.startswith("s1"):
            mend(model)
        return model

    monkeypatch.setattr(ours, "build", mended)
    with pytest.raises(DifferenceError, match=f"^{name}: "):
        compare(only(read_small("vit_cos"), int(name[1])))


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main([str(tmp_path / "none")]) == 1
    assert "none.json is not there" in capsys.readouterr().err
    shutil.copy(ROOT / "tests/golden/vit_cos.npz", tmp_path / "x.npz")
    (tmp_path / "x.json").write_text("{")
    assert main([str(tmp_path / "x.npz")]) == 1
    assert "x: cannot be read" in capsys.readouterr().err


def test_a_whole_pair_differs_on_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pair written as the released code's are, with one number bent."""
    import json

    pair = read_small("vit_cos")
    losses = {k: v for k, v in pair.numbers.items() if not isinstance(v, dict)}
    content = {"meta": pair.meta, "stage1_keys": pair.shapes[1], **losses}
    (tmp_path / "x.json").write_text(json.dumps(content))
    inputs = {k: v for k, v in pair.arrays.items() if not k.startswith("s")}
    texts = {k: pair.arrays[k] for k in ("sparse_ids", "sparse_len")}
    assert np.array_equal(inputs["images"], draw_images(pair.meta))
    np.savez(tmp_path / "x.npz", **inputs, **texts)
    assert main([str(tmp_path / "x")]) == 0
    assert "2 losses" in capsys.readouterr().out
    content["s1_loss_hard_alpha0.7"] *= 1.001  # type: ignore[operator]
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert main([str(tmp_path / "x.json")]) == 1
    assert "differs: s1_loss_hard_alpha0.7: " in capsys.readouterr().err
    # Another formula beside the pair is another model.
    (tmp_path / "formula.py").write_text(
        "import numpy as np\ndef formula(key, shape, seed):\n"
        "    return np.full(shape, 0.01, dtype=np.float32)\n"
    )
    assert main([str(tmp_path / "x.json")]) == 1
    assert "differs: s1_loss_sum_alpha0.7: " in capsys.readouterr().err
