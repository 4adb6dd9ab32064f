"""Checkpoints of the released code become runs, bit for bit; nothing in them is run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vse
from data.errors import UserError
from tests.vse.released.checkpoints import (
    OPTIONS,
    golden,
    make_tokenizer,
    save_released,
    weights_of,
)
from vse.model.encoding import embed_texts
from vse.model.tokenizer.tokens import TokenStore
from vse.released.checkpoint import read_checkpoint
from vse.released.keys import our_key
from vse.released.reading import prepare_run, write_run
from vse.samples.augmentation import WHOLE
from vse.samples.images import resize


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_converted_model_has_the_weights_and_embeddings_of_the_released_one(
    prefix: str, tmp_path: Path
) -> None:
    pair = golden()
    weights = weights_of(pair, 2)
    path = save_released(tmp_path / "model_best.pth", weights, OPTIONS, prefix=prefix)
    write_run(prepare_run(path, tokenizer=make_tokenizer()), tmp_path / "run")

    model = vse.load(tmp_path / "run", device="cpu")
    ids, lengths = pair.arrays["sparse_ids"], pair.arrays["sparse_len"]
    flat = np.concatenate([row[:n] for row, n in zip(ids, lengths, strict=True)]).astype(np.int32)
    starts = np.cumsum([0, *lengths])
    store = TokenStore(flat, np.zeros_like(flat), starts, 0)
    found = embed_texts(model.model, store, pad_id=0)[:, :: pair.stride]
    expected = pair.arrays["s2_test_text_emb"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert model.px == 48 and model.tokenizer.vocab_size == 120
    # It sees the pixels that it was trained on.
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    small = resize(noise, WHOLE, 48, antialias=False)
    np.testing.assert_allclose(model.encode_image(noise), model.encode_image(small), atol=1e-6)
    assert model.config["recipe"]["image"]["antialias"] is False

    own = model.model.state_dict()
    read = {key: our for key in weights if (our := our_key(key)) is not None}
    assert set(read.values()) == set(own)
    for key, our in read.items():
        assert torch.equal(own[our], weights[key]), key
        assert own[our].dtype == weights[key].dtype


def test_settings_come_from_its_command_line(tmp_path: Path) -> None:
    path = save_released(tmp_path / "x.pth", weights_of(golden(), 2), OPTIONS)
    run = prepare_run(path, tokenizer=make_tokenizer())
    recipe, config = run.config["recipe"], run.config
    optim, loss, decoder = recipe["optim"], recipe["loss"], recipe["decoder"]
    assert (config["stage"], recipe["image"]["px"]) == ("2", 48)
    assert (optim["lr"], optim["backbone_lr"]) == (5e-4, pytest.approx(5e-5))
    assert (optim["batch_size"], optim["epochs"], optim["clip"]) == (128, 7, 1.5)
    assert (optim["milestones"], optim["gamma"]) == ((3, 5), 0.1)
    assert (loss["margin"], loss["sum_epochs"], loss["distill"]) == (0.3, 2, "l2")
    assert (decoder["tokens"], decoder["depth"], decoder["placement"]) == (10, 2, "postfix")
    assert decoder["attend_padding"] and decoder["unit_at_test"] and decoder["residual"]
    assert recipe["data"]["select_split"] == "test" and optim["clip_scaled"]
    # The weights are those of no published tower, whatever the command line says.
    assert recipe["image"]["name"] is None and recipe["image"]["config"]["hidden_size"] == 768
    assert config["converted"]["best_rsum"] == 512.3 and config["converted"]["from"] == "x.pth"
    assert not any(str(tmp_path) in line for line in json.dumps(config).splitlines())
    assert any("512.3" in note for note in run.notes)


def test_stage_1_and_a_file_without_its_command_line(tmp_path: Path) -> None:
    weights = weights_of(golden(), 1)
    path = save_released(
        tmp_path / "x.pth", weights, {**OPTIONS, "pretrain": True, "num_tokens": 4}
    )
    run = prepare_run(path, tokenizer=make_tokenizer())
    assert run.config["stage"] == "1" and run.config["model"]["decoder"] is None
    # The parser's default for a decoder that stage 1 does not have is no setting of stage 2.
    assert run.config["recipe"]["decoder"]["tokens"] == 100
    save_released(path, weights, {**OPTIONS, "pretrain": False, "distill": False})
    assert prepare_run(path, tokenizer=make_tokenizer()).config["stage"] == "sparse"
    save_released(path, weights, None)
    run = prepare_run(path, tokenizer=make_tokenizer(), px=64)
    assert (run.config["stage"], run.config["model"]["image"]["px"]) == ("1", 64)
    assert "does not record its input size: assuming 64 px" in run.notes[0]
    torch.save(weights, path)  # not even a mapping around them
    run = prepare_run(path, tokenizer=make_tokenizer())
    assert run.config["model"]["image"]["px"] == 384


def test_another_input_size_than_recorded_is_refused(tmp_path: Path) -> None:
    path = save_released(tmp_path / "x.pth", weights_of(golden(), 2), OPTIONS)
    with pytest.raises(UserError, match="48 px"):
        prepare_run(path, tokenizer=make_tokenizer(), px=64)
    run = prepare_run(path, tokenizer=make_tokenizer(), px=48)
    assert run.config["model"]["image"]["px"] == 48


@pytest.mark.parametrize("name", ["swin", "vit_cross_alone"])
def test_other_architectures_are_read(name: str, tmp_path: Path) -> None:
    pair = golden(name)
    weights = weights_of(pair, 2)
    options = {**OPTIONS, "img_res": pair.meta["px"], "no_res_embed": pair.meta["residual"]}
    path = save_released(tmp_path / "x.pth", weights, options)
    write_run(prepare_run(path, tokenizer=make_tokenizer()), tmp_path / "run")
    loaded = vse.load(tmp_path / "run", device="cpu").model
    assert loaded.residual is pair.meta["residual"]
    own = loaded.state_dict()
    read = {key: our for key in weights if (our := our_key(key)) is not None}
    assert all(torch.equal(own[our], weights[key]) for key, our in read.items())


class Hostile:
    """What is run when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch pwned",))


@pytest.mark.parametrize("kind", ["model", "opt", "inside opt", "plain pickle", "legacy"])
def test_a_hostile_pickle_is_one_line_and_nothing_is_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    content: dict[str, Any] = {"model": {"a": torch.ones(1)}, "opt": argparse.Namespace()}
    if kind == "model":
        content["model"] = Hostile()
    elif kind == "inside opt":
        content["opt"] = argparse.Namespace(img_res=Hostile())
    else:
        content["opt"] = Hostile()
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(content["opt"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message and "x.pth" in message and "\033" not in message
    assert "system" in message or kind == "plain pickle"
    assert not Path("pwned").exists()


def test_an_object_of_another_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": {}, "opt": Path("x")}, path)
    with pytest.raises(UserError, match="x.pth asks for pathlib"):
        read_checkpoint(path)


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(UserError, match="does not exist"):
        read_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    for content, message in (
        ([1, 2], "contains no weights, but a list"),
        ({"model": 3}, "contains no weights under 'model'"),
        ({"model": {}}, "contains no weights under 'model'"),
        ({"model": {"a": 3}}, "has a int among its weights .a."),
        ({"model": {3: torch.ones(1)}}, "has a weight whose name is not text .3."),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            read_checkpoint(path)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    weights, path = weights_of(golden(), 1), tmp_path / "x.pth"

    def refuse(message: str, *, size: int = 120) -> None:
        with pytest.raises(UserError, match=message):
            prepare_run(path, tokenizer=make_tokenizer(size))

    save_released(path, {**weights, "txt_enc.lstm.weight": torch.ones(2)}, OPTIONS)
    refuse("x.pth does not contain a model of the released code: 'txt_enc.lstm.weight'")
    fewer = {key: value for key, value in weights.items() if key != "txt_enc.ln.bias"}
    save_released(path, fewer, OPTIONS)
    refuse("Missing key.*text.norm.bias")
    save_released(path, weights, OPTIONS)
    refuse("knows 120 tokens, but the tokenizer 100: .*--tokenizer", size=100)
    save_released(path, weights, {**OPTIONS, "img_res": "large"})
    refuse("image.px is 'large'; it must be of type int")
    save_released(path, weights, {**OPTIONS, "batch_size": "many"})
    refuse("opt has a value of the wrong kind")


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    path = save_released(tmp_path / "x.pth", weights_of(golden(), 1), OPTIONS)
    run = prepare_run(path, tokenizer=make_tokenizer())
    write_run(run, tmp_path / "run")
    with pytest.raises(UserError, match="run contains a run: use another --out"):
        write_run(run, tmp_path / "run")
