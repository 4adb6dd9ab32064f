"""`d2s reproduce` and `d2s recipe`: a row by one command, its figures beside the published ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.cli import run
from pipelines.experiments.reproduction import compare_published, format_comparison, read_published
from tests.documents import ROOT
from tests.json_outputs import check_json
from tests.waiting import wait_until
from vse.recipes.files import read_recipe, resolve, shipped_recipes

PUBLISHED = """
published:
  source: a paper
  row: World, tiny
  figures:
    World: {of: split, i2t_r1: 10.0, t2i_r1: 20.0, rsum: 300.0}
    World in folds: {of: folds, i2t_r1: 1.0, t2i_r1: 2.0, rsum: 3.0}
"""


@pytest.fixture
def project(project: Path) -> Path:
    (project / "row.yaml").write_text("base: tiny.yaml" + PUBLISHED)
    return project


def test_a_row_by_one_command(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", "row.yaml", "--steps", "3", "2", "--seed", "5", "--limit", "40"]
    assert run([*command, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    check_json("reproduce", found)
    results = Path("runs/row/stage2/eval-test-first-40.json")
    metrics = json.loads(results.read_text())
    # Not results of the whole split, and named like those of the command itself.
    assert list(results.parent.glob("eval-*.json")) == [results]
    assert run(["evaluate", "--model", "runs/row/stage2", "--limit", "40"]) == 0
    assert list(results.parent.glob("eval-*.json")) == [results]
    capfd.readouterr()
    first, folds = found["rows"]
    assert first["here"] == {key: metrics[key] for key in ("i2t_r1", "t2i_r1", "rsum")}
    assert first["difference"]["rsum"] == pytest.approx(metrics["rsum"] - 300.0)
    assert folds["here"] is None and folds["published"]["rsum"] == 3.0
    config = json.loads(Path("runs/row/stage2/config.json").read_text())
    assert config["recipe"]["optim"]["seed"] == 5 and config["recipe"]["optim"]["steps"] == 2
    assert run(command) == 0
    said = capfd.readouterr()
    assert said.err.count("already done") == 3
    assert "first 40 images" in said.out.splitlines()[0]
    words = said.out.splitlines()[3].split()
    assert words[:2] == ["World", "here"] and float(words[-1]) == round(metrics["rsum"], 1)
    assert run([*command, "--set", "width=64"]) == 1
    assert "runs/row holds another run" in capfd.readouterr().err
    Path("row.yaml").write_text("base: tiny.yaml\nwidth: 64" + PUBLISHED)
    assert run(command) == 1
    assert "holds another run (recipe_sha256" in capfd.readouterr().err
    Path("row.yaml").write_text("base: tiny.yaml" + PUBLISHED.replace("300.0", "310.0"))
    assert run(command) == 0
    captions = Path("world/dataset_world.json")
    captions.write_text(captions.read_text().replace("red", "crimson"))
    assert run(command) == 1
    assert "holds another run (data_sha256" in capfd.readouterr().err


def test_a_broken_test_image_is_left_out(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (project / "world/test/000.png").write_bytes(b"no image")
    command = ["reproduce", "row.yaml", "--steps", "1", "1", "--set", "data.max_missing=0.5"]
    assert run([*command, "--json"]) == 3
    assert json.loads(capfd.readouterr().out)["images_left_out"] == 1
    assert run(command) == 3
    said = capfd.readouterr()
    assert said.err.count("already done") == 3 and "1 test images were left out" in said.out
    assert Path("runs/row/stage2/eval-test.json").exists() and "first" not in said.out


def test_sigterm_saves_the_running_stage(project: Path) -> None:
    words = ["reproduce", "row.yaml", "--steps", "100000", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    log = Path("runs/row/stage1/log.jsonl")
    wait_until(lambda: process.poll() is not None or (log.exists() and '"step"' in log.read_text()))
    process.terminate()
    told = process.communicate()[1]
    assert process.returncode == 130 and told.splitlines()[-1] == "d2s: interrupted"
    steps = json.loads(Path("runs/row/steps.json").read_text())["steps"]
    assert list(steps) == ["stage 1"] and not steps["stage 1"]["done"]
    # It has ended, and saved the step at which it stopped.
    last = json.loads(Path("runs/row/stage1/state/progress.json").read_text())["step"]
    assert f"step {last}" in told


def test_a_dry_run_of_both_stages(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce", "row.yaml", "--dry-run", "--json", "--gpus", "2"]) == 0
    said = capsys.readouterr()
    outcome = json.loads(said.out)
    check_json("reproduce", outcome, dry_run=True)
    assert outcome["stage1"]["weights"].keys() == {"all", "image", "text"}
    assert outcome["stage2"]["weights"].keys() == {"all", "image", "text", "decoder"}
    assert outcome["stage2"]["texts_cut"] == {"sparse": 0.0, "dense": 0.0}
    for words in (
        "3 steps each, 12 in all",
        "on each of 2 GPUs for 8 pairs",
        "an estimate",
        "images    48 train, 8 val, 8 test used",
        "d2s evaluate --model stage2",
    ):
        assert words in said.err
    assert not Path("runs").exists()


def test_a_dry_run_that_finds_a_problem(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", "f30k-vit-384", "--dry-run", "--set", "optim.batch_size=16"]
    assert run([*command, "--set", "image.px=32"]) == 1
    said = capsys.readouterr().err
    assert "bert-base-uncased" in said.splitlines()[-1] and "this run would fail" in said
    assert "image 86." in said and "texts     0.0 %" in said


def test_folds_are_compared_where_they_were_measured() -> None:
    published = read_published(yaml.safe_load(PUBLISHED))
    summary = {
        "split": "test", "i2t_r1": 11.0, "t2i_r1": 20.0, "rsum": 290.0,
        "folds": {"mean": {"i2t_r1": 2.0, "t2i_r1": 2.0, "rsum": 4.5}},
    }  # fmt: skip
    lines = format_comparison(compare_published(published, summary))
    assert lines[2].split() == ["World", "here", "11.0", "20.0", "290.0"]
    assert lines[3].split() == ["World", "difference", "+1.0", "+0.0", "-10.0"]
    assert lines[6].split() == ["World", "in", "folds", "difference", "+1.0", "+0.0", "+1.5"]
    [row] = compare_published(None, summary)
    assert row["here"]["rsum"] == 290.0 and "difference" not in row


def test_recipes_are_listed_and_shown_settled(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recipe"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == shipped_recipes()
    [row] = [line for line in listed if line.startswith("f30k-vit-384 ")]
    assert 'Flickr30K, ViT-B, "224" (384 px): published F30K 1K rSum 531.9' in row
    assert run(["recipe", "f30k-vit-480", "--stage", "1", "--set", "optim.lr=1e-3"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# d2s reproduce f30k-vit-480 ")
    values = yaml.safe_load(shown)
    values.pop("published")
    wanted = resolve(read_recipe("f30k-vit-480"), stage="1", overrides=["optim.lr=1e-3"])
    assert values == json.loads(json.dumps(wanted.to_dict()))
    # What is shown can be used as a recipe of its own.
    Path("mine.yaml").write_text(shown)
    assert resolve(read_recipe("mine.yaml"), stage="1") == wanted
    assert run(["recipe", "nope"]) == 1
