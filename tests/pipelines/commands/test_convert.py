"""`d2s convert`: a checkpoint of the released code as a run, and training goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vse
from pipelines.cli import run
from tests.json_outputs import check_json
from tests.vse.released.checkpoints import save_as_released
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


def test_a_stage_2_becomes_a_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(make("2", out=Path("runs/stage2"), init=Path("runs/stage1"), steps=2))
    save_as_released(Path("stage2.pth"), Path("runs/stage2"))
    given = ["convert", "stage2.pth", "--out", "runs/back", "--tokenizer", "runs/stage2"]
    assert run(given) == 0
    said = capsys.readouterr()
    assert (
        "stage 2" in said.out
        and "does not record how t and r are combined: assuming t + r" in said.err
    )
    one, other = (vse.load(f"runs/{name}", device="cpu") for name in ("stage2", "back"))
    weights = one.model.state_dict()
    # The released code learns no temperature.
    assert set(weights) - set(other.model.state_dict()) == {"logits.log_scale"}
    for key, value in other.model.state_dict().items():
        assert torch.equal(weights[key], value), key
    # Its r has length 1 at test and the padding is read, so embeddings are others; images are not.
    picture = "world/" + "test/" + sorted(p.name for p in Path("world/test").iterdir())[0]
    np.testing.assert_array_equal(other.encode_image([picture]), one.encode_image([picture]))
    assert config_of("runs/back")["model"]["decoder"]["unit_at_test"]


def test_stage_2_goes_on_from_a_released_stage_1(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_as_released(Path("s1.pth"), Path("runs/stage1"), prefix="module.")
    command = ["convert", "s1.pth", "--out", "runs/theirs", "--tokenizer", "runs/stage1/tokenizer"]
    assert run([*command, "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out and not Path("runs/theirs").exists()
    assert run([*command, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    check_json("convert", about)
    assert (about["stage"], about["px"], about["out"]) == ("1", 16, "runs/theirs")
    settings = ["--batch-size", "8", "--steps", "2", "--set", "decoder.tokens=4"]
    places = ["--init", "runs/theirs", "--out", "runs/stage2"]
    assert run(["train", "--stage", "2", *places, *settings, "--set", "width=32"]) == 0
    recipe = config_of("runs/stage2")["recipe"]
    assert recipe["teacher"]["mode"] == "online-train" and recipe["decoder"]["attend_padding"]
    assert "selected on the test split" in capsys.readouterr().err
    assert run(["evaluate", "--model", "runs/theirs"]) == 1
    assert "does not say where its images were: use --images" in capsys.readouterr().err
    given = ["--images", "world", "--captions", "world/dataset_world.json"]
    assert run(["evaluate", "--model", "runs/theirs", *given]) == 0
    said = capsys.readouterr()
    assert "test: 8 images, 24 captions\n" in said.out and " 16 px " in said.out
    assert "selected by their rSum on the test split of their training" in said.err


def test_what_cannot_be_done_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(message: str, *arguments: str) -> None:
        assert run(["convert", *arguments]) == 1
        assert message in capsys.readouterr().err

    Path("there.pth").touch()
    refuse("runs/stage1 contains a run", "there.pth", "--out", "runs/stage1")
    refuse("there.pth cannot be read", "there.pth", "--out", "b", "--tokenizer", "runs/stage1")
    refuse("gone.pth does not exist", "gone.pth", "--out", "b", "--tokenizer", "nowhere/x")
    refuse("tokenizer of nowhere/x", "there.pth", "--out", "b", "--tokenizer", "nowhere/x")
    assert not Path("b").exists()
