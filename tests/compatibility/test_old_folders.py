"""What d2s wrote before its files were moved to their rooms still resumes, loads and verifies.

`project/` was made by `make.py` at commit cc80b12.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import vse
from pipelines.cli import run

MADE = Path(__file__).with_name("project")
SCRIPTED = ["--model", "any", "--engine", "scripted", "--images", "world", "--shard-size", "24"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(MADE, tmp_path, dirs_exist_ok=True)
    # Images are told by the folder that they lay in.
    for path in tmp_path.glob("dense/*/run.json"):
        path.write_text(path.read_text().replace('"/project/', f'"{tmp_path}/'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_rows(folder: Path) -> list[dict[str, object]]:
    paths = sorted(folder.glob("train-*.parquet"))
    return [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]


def test_a_captioning_run_verifies_and_is_not_captioned_again(project: Path) -> None:
    before = {path: path.read_bytes() for path in project.glob("dense/finished/*.parquet")}
    assert run(["verify", "dense/finished"]) == 0
    assert run(["caption", *SCRIPTED, "--out", "dense/finished"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert run(["review", "dense/finished"]) == 0


def test_a_captioning_run_that_was_stopped_is_taken_up(project: Path) -> None:
    kept = sum(path.read_bytes().count(b"\n") for path in project.glob("dense/begun/journal/*"))
    assert kept > 0
    # Its journal was made with other versions than those of today.
    assert run(["caption", *SCRIPTED, "--out", "dense/begun", "--mix-versions"]) == 0
    assert read_rows(project / "dense/begun") == read_rows(project / "dense/finished")
    about = json.loads((project / "dense/begun/run.json").read_text())
    assert about["complete"] and about["sessions"]["generated"] <= 64
    assert sum(maker["rows"] for maker in about["made_by"].values()) == 64
    assert run(["verify", "dense/begun"]) == 0


def test_other_settings_are_still_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["caption", *SCRIPTED, "--out", "dense/begun", "--seed", "1"]) == 1
    assert "sampling.seed" in capsys.readouterr().err


def test_a_training_run_that_was_stopped_is_taken_up(project: Path) -> None:
    data = ["--dense", "dense/world", "--images", "world"]
    assert run(["train", "--stage", "2", "--steps", "24", *data]) == 0
    progress = json.loads((project / "runs/stage2/state/progress.json").read_text())
    assert progress["finished"] and progress["step"] == 24
    events = [json.loads(line) for line in (project / "runs/stage2/log.jsonl").open()]
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == sorted(steps) and steps[-1] == 24
    assert run(["evaluate", "--model", "runs/stage2"]) == 0


def test_a_model_loads_and_an_index_fits_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table("world.parquet")
    model = vse.load("runs/stage1", device="cpu")
    images = [f"world/{name}" for name in table.column("file_name").to_pylist()]
    vectors = np.vstack(table.column("embedding").to_numpy())
    assert np.allclose(model.encode_image(images), vectors, atol=1e-5)
    assert run(["search", "--index", "world.parquet", "a red square", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"][0]["hits"]) == 10
    same = ["embed", "--model", "runs/stage1", "--images", "world", "--out", "world.parquet"]
    assert run(same) == 0
    assert "unchanged" in capsys.readouterr().out
