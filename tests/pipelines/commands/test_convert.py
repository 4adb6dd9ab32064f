"""`d2s convert`: runs as checkpoints of the released code and back; training goes on from one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vse
from pipelines.cli import run
from tests.vse.released.checkpoints import load_released, save_released
from tests.vse.runs import make
from tests.vse.runs import run as train
from tests.vse.world import write_project

# Of a width that tells the number of attention heads.
SIZES = {"hidden_size": 64, "num_attention_heads": 1}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_project(
        tmp_path,
        image={"config": SIZES},
        text={"config": SIZES},
        decoder={"heads": 4, "placement": "prefix"},
    )
    train(make("1", out=Path("runs/stage1"), steps=2))
    return tmp_path


def config_of(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "config.json").read_text())
    return found


def test_our_run_goes_there_and_back_exactly(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make("2", out=Path("runs/stage2"), init=Path("runs/stage1"), steps=2))
    assert run(["convert", "runs/stage2", "--to", "released", "--out", "x/stage2.pth"]) == 0
    said = capsys.readouterr()
    assert "stage 2" in said.out and "reads padding, this model's does not" in said.err
    assert "teacher" not in said.err
    content = load_released(Path("x/stage2.pth"))
    # The teacher is stage 1's text tower, and what the loader asks for beside it.
    teacher = {k: v for k, v in content["model"].items() if k.startswith("long_txt_enc.")}
    stage1 = vse.load("runs/stage1", device="cpu").model.text.fc.weight
    assert torch.equal(teacher["long_txt_enc.fc.weight"], stage1)
    assert {k.removeprefix("long_") for k in teacher} == {
        k for k in content["model"] if k.startswith("txt_enc.")
    }
    opt = content["opt"]
    assert (opt.img_res, opt.distill, opt.use_decoder, opt.num_tokens) == (16, True, True, 4)
    assert str(project) not in json.dumps(vars(opt))

    back = ["convert", "x/stage2.pth", "--out", "runs/back", "--tokenizer", "runs/stage2"]
    assert run(back) == 0
    one, other = (vse.load(f"runs/{name}", device="cpu") for name in ("stage2", "back"))
    for key, value in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[key], value), key
    texts = ["a red square", "a blue square at the top, on white"]
    np.testing.assert_array_equal(other.encode_text(texts), one.encode_text(texts))
    before, after = config_of("runs/stage2"), config_of("runs/back")
    assert all(before[key] == after[key] for key in ("stage", "model", "recipe"))


def test_stage_2_goes_on_from_a_released_stage_1(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", "runs/stage1", "--to", "released", "--out", "s1.pth"]) == 0
    content = load_released(Path("s1.pth"))
    options = {k: v for k, v in vars(content["opt"]).items() if k != "d2s"}
    save_released(Path("s1.pth"), content["model"], options, prefix="module.")
    command = ["convert", "s1.pth", "--out", "runs/theirs", "--tokenizer", "runs/stage1/tokenizer"]
    assert run([*command, "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out and not Path("runs/theirs").exists()
    assert run([*command, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["stage"], about["px"], about["out"]) == ("1", 16, "runs/theirs")
    settings = ["--batch-size", "8", "--steps", "2", "--set", "decoder.tokens=4"]
    places = ["--init", "runs/theirs", "--out", "runs/stage2"]
    assert run(["train", "--stage", "2", *places, *settings, "--set", "width=32"]) == 0
    recipe = config_of("runs/stage2")["recipe"]
    assert recipe["teacher"]["mode"] == "online-train" and recipe["decoder"]["attend_padding"]
    assert "picked on the test split" in capsys.readouterr().err
    assert run(["evaluate", "--model", "runs/theirs"]) == 1
    assert "does not say where its images were: use --images" in capsys.readouterr().err
    given = ["--images", "world", "--captions", "world/dataset_world.json"]
    assert run(["evaluate", "--model", "runs/theirs", *given]) == 0
    said = capsys.readouterr()
    assert "test: 8 images, 24 captions, 16 px" in said.out
    assert "picked by their rSum on the test split of their training" in said.err


def test_what_cannot_be_done_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(message: str, *arguments: str, code: int = 1) -> None:
        assert run(["convert", *arguments]) == code
        assert message in capsys.readouterr().err

    refuse("belong to the way from", "a", "--out", "b", "--to", "released", "--px", "3", code=2)
    refuse("none holds no trained model", "none", "--out", "b.pth", "--to", "released")
    Path("there.pth").touch()
    refuse("there.pth exists", "runs/stage1", "--out", "there.pth", "--to", "released")
    refuse("runs/stage1 holds a run", "there.pth", "--out", "runs/stage1")
    refuse("there.pth cannot be read", "there.pth", "--out", "b", "--tokenizer", "runs/stage1")
    refuse("tokenizer of nowhere/x", "there.pth", "--out", "b", "--tokenizer", "nowhere/x")
    config = config_of("runs/stage1")
    config["model"]["image"]["backbone"]["model_type"] = "resnet"
    Path("runs/stage1/config.json").write_text(json.dumps(config))
    refuse("no image tower of this kind (resnet)", "runs/stage1", "--out", "b.pth",
           "--to", "released")  # fmt: skip
    assert not Path("b").exists() and not Path("b.pth").exists()
