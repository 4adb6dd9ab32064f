"""Files of a run that a crash or a full disk has damaged, or that lie elsewhere now: ways on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from data.errors import UserError
from pipelines import cli
from tests.vse.runs import make, run
from tests.vse.world import write_project
from vse.runs.folder import PROGRESS, RunFolder, read_log

DAMAGES = [b"", b"\xff\xfe", b"{", b"[]", b"null", b'{"step": 3}', b'{"step": "three"}']


@pytest.mark.parametrize("content", DAMAGES)
def test_a_damaged_progress_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PROGRESS).parent.mkdir()
    (tmp_path / PROGRESS).write_bytes(content)
    with pytest.raises(UserError, match=r"progress.json is damaged .*delete .*/state;"):
        RunFolder(tmp_path).read_progress()


@pytest.mark.parametrize("line", [b"{", b"[]", b"7", b"\xff", b"{}"])
def test_a_damaged_line_of_the_log_is_named(tmp_path: Path, line: bytes) -> None:
    whole = b'{"event": "step", "step": 1}'
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([whole, line, whole]))
    with pytest.raises(UserError, match="damaged at line 2: delete that line"):
        read_log(tmp_path)
    # The last one may be torn.
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([whole, line]))
    assert len(read_log(tmp_path)) == 1


def test_the_way_that_is_named_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    spec = make("1", out=Path("runs/a"), steps=2)
    run(spec)
    state = Path("runs/a/state")
    progress = json.loads((tmp_path / "runs/a" / PROGRESS).read_text())
    (tmp_path / "runs/a" / PROGRESS).write_text(json.dumps({**progress, "finished": False}))
    weights = state / progress["weights"]
    whole = weights.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], None, {"other": torch.zeros(1)}):
        weights.unlink(missing_ok=True)
        if isinstance(content, dict):
            save_file(content, weights)
        elif content is not None:
            weights.write_bytes(content)
        with pytest.raises(UserError, match="delete .*state") as caught:
            run(spec)
        assert "\n" not in str(caught.value)
    shutil.rmtree(state)
    run(spec)
    done = RunFolder(Path("runs/a")).read_progress()
    assert done is not None and done.finished and done.step == 2
    # What is finished needs no state, and what measures it says what is wrong with its model.
    Path("runs/a/model.safetensors").write_bytes(whole[:100])
    assert cli.run(["evaluate", "--model", "runs/a"]) == 1
    assert "model.safetensors is damaged" in capsys.readouterr().err


def test_stage_1_whose_progress_is_damaged_is_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    run(make("1", out=Path("runs/a"), steps=2))
    for content in DAMAGES:
        (tmp_path / "runs/a" / PROGRESS).write_bytes(content)
        with pytest.raises(UserError, match="progress.json is damaged.*delete .*state"):
            make("2", out=Path("runs/b"), init=Path("runs/a"))


def test_images_that_were_renamed_are_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    train = ["train", "--stage", "1", "--recipe", "tiny.yaml", "--steps", "2", "--out", "runs/a"]
    assert cli.run(train) == 0
    (tmp_path / "world").rename(tmp_path / "moved")
    weights = (tmp_path / "runs/a/model.safetensors").read_bytes()
    assert cli.run(["evaluate", "--model", "runs/a"]) == 1
    assert "--images" in capsys.readouterr().err
    assert cli.run([*train, "--images", "moved"]) == 0
    assert (tmp_path / "runs/a/model.safetensors").read_bytes() == weights
    assert json.loads((tmp_path / "runs/a/config.json").read_text())["data"]["images"].endswith(
        "moved"
    )
    assert cli.run(["evaluate", "--model", "runs/a"]) == 0
