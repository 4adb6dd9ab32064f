"""`d2s ablate` from data to table on a tiny world: real trainings, shared, resumed."""

import json
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.experiments.ablation import Ablation
from pipelines.experiments.ablation_table import read_table
from pipelines.experiments.document import write_document
from pipelines.workflow.jobs import Job
from pipelines.workflow.steps import Workflow
from tests.documents import ROOT
from tests.json_outputs import check_json
from vse.samples.discovery import find_input

TABLE = """
title: Small
decides: true
notes: [A note.]
rows:
  - {name: stage 1 only, stage: "1", paper: 425.2}
  - {name: cold, stage2: {teacher.warm_start: false}, all_steps: true}
  - {name: whole, reference: true}
  - {name: the same, stage2: {loss.distill: cosine}}
"""
COMMAND = ["ablate", "--table", "t.yaml", "--recipe", "tiny.yaml", "--steps", "3", "2",
           "--seeds", "1", "--limit", "40", "--jobs", "2"]  # fmt: skip


@pytest.fixture
def project(project: Path) -> Path:
    (project / "t.yaml").write_text(TABLE)
    return project


def test_from_data_to_table(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, "--docs", "docs"]) == 0
    said = capsys.readouterr()
    folder = Path("artifacts/ablate")
    assert {path.name for path in (folder / "runs").iterdir()} == {
        "cache",
        "stage1-seed-0",
        "stage2-seed-0",
        "stage2+teacher.warm_start-false-seed-0",
    }
    text = Path("docs/ablation_t.md").read_text()
    assert "the first 40 of each split" in text
    assert said.out.strip() == text.strip()
    assert "`d2s ablate --table t.yaml --seeds 1 --recipe tiny.yaml --steps 3 2 --limit 40`" in text
    assert str(project) not in text and "A note." in text and "larger than the pooled" in text
    found = json.loads(Path("docs/ablation_t.json").read_text())
    rows = {row["name"]: row for row in found["tables"][0]["rows"]}
    [code] = found["tables"][0]["code"]
    assert f"`{code}`" in text
    assert [row["steps"] for row in rows.values()] == [[3], [5], [3, 2], [3, 2]]
    for name, run_name in (("stage 1 only", "stage1"), ("whole", "stage2"), ("the same", "stage2")):
        results = folder / f"runs/{run_name}-seed-0/eval-test-first-40.json"
        metrics = json.loads(results.read_text())
        assert rows[name]["rsum"]["mean"] == metrics["rsum"]
        assert rows[name]["runs"][0]["steps"] == rows[name]["steps"][-1]
    assert rows["the same"]["gain"]["mean"] == 0.0 and rows["the same"]["same_as_reference"]
    assert rows["cold"]["decision"]["kept"] is None  # one seed
    assert all(row["runs"][0]["val_rsum"] > 0 for row in rows.values())
    is_what_the_command_alone_trains(folder)
    again_does_nothing(folder, capsys)
    keys_are_documented(capsys)
    other_settings_are_refused(capsys)


def is_what_the_command_alone_trains(folder: Path) -> None:
    [line] = [job.commands[0] for job in jobs() if job.name == "runs/stage1-seed-0"]
    arguments = ["alone" if word == "runs/stage1-seed-0" else word for word in line.arguments]
    assert run(arguments) == 0
    trained = folder / "runs/stage1-seed-0/model.safetensors"
    assert trained.read_bytes() == Path("alone/model.safetensors").read_bytes()


def jobs() -> list[Job]:
    asked = Ablation(
        out=Path("x"),
        tables=(read_table("t.yaml"),),
        seeds=(0,),
        recipe="tiny.yaml",
        inputs=find_input(images=None, captions=None, dense=None, wants_dense=True),
        steps=(3, 2),
        limit=40,
    )
    return asked.jobs()


def again_does_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*")}
    assert run(COMMAND) == 0
    assert "started" not in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*")} == before


def keys_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ((), ("--dry-run",)):
        assert run([*COMMAND, *more, "--json"]) == 0
        check_json("ablate", json.loads(capsys.readouterr().out), dry_run=bool(more))


def other_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, "--set", "width=64"]) == 1
    assert "holds another run (set is [] there" in capsys.readouterr().err
    captions = Path("world/dataset_world.json")
    text = captions.read_text()
    captions.write_text(text.replace("red", "crimson"))
    assert run(COMMAND) == 1
    assert "holds another run (data_sha256" in capsys.readouterr().err
    captions.write_text(text)


def test_dry_run_names_every_command_and_writes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*COMMAND, "--table", "depth", "--dry-run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "table     depth: 0, 1, 2, 4, 6" in out
    # tiny.yaml has depth 1, so that row is `whole`.
    assert sum(line.startswith("d2s train") for line in out) == 3 + 4
    assert sum(line.startswith("d2s evaluate") for line in out) == 3 + 4
    assert all("--limit 40" in line for line in out if line.startswith("d2s "))
    assert not Path("artifacts").exists()


def test_a_length_in_epochs_is_counted_on_the_data(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ablate", "--table", "t.yaml", "--recipe", "tiny.yaml", "--dry-run"]
    epochs = ["--set", "optim.steps=null", "--set", "optim.epochs=2"]
    assert run([*arguments, *epochs, "--set", "data.items=captions"]) == 0
    # 48 images, 3 captions each, batches of 16.
    assert "6 steps in stage 1, 18 in stage 2; rows without stage 1 take 24" in (
        capsys.readouterr().out
    )
    scenes = ["ablate", "--scenes", "--dry-run"]
    assert run([*scenes, "--recipe", "paper"]) == 1
    assert "counts in epochs" in capsys.readouterr().err
    assert run(scenes) == 0
    assert "600 steps in stage 1, 400 in stage 2" in capsys.readouterr().out


def test_the_dense_text_may_be_one_of_several(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dense/world").rename("dense/dense")
    Path("dense/world").mkdir()
    Path("dense/dense").rename("dense/world/dense")
    record = Path("dense/world/dense/run.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "model": "a model"}))
    Path("dense/world/texts.yaml").write_text("texts: [{name: dense}]")
    Path("one.yaml").write_text("rows: [{name: joint, stage: joint, reference: true}]")
    command = ["ablate", "--table", "one.yaml", "--recipe", "tiny.yaml", "--steps", "1", "1"]
    images = ["--images", str(project / "world"), "--seeds", "1"]
    assert run([*command, *images]) == 0
    page = capsys.readouterr().out
    assert "dense text by a model" in page and str(project) not in page
    assert "-i world" in page and "1 seed" in page


@pytest.mark.parametrize("path", sorted((ROOT / "docs/experiments").glob("ablation_*.json")))
def test_published_figures_can_be_written_again(path: Path) -> None:
    found = json.loads(path.read_text())
    [table] = found["tables"]
    page = write_document(table, found)
    assert table["title"] in page and ("Code (" in page) == ("code" in table)


def test_a_folder_in_use_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Workflow.open(Path("artifacts/ablate"), settings={}):
        assert run(COMMAND) == 1
    assert "another process" in capsys.readouterr().err
    with Workflow.open(Path("row"), settings={}):
        assert run(["reproduce", "tiny.yaml", "--out", "row"]) == 1
    assert "another process" in capsys.readouterr().err
    with Workflow.open(Path("demo"), settings={}):
        assert run(["demo", "--out", "demo"]) == 1
    assert "another process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--scenes", "--images", "world"], 2, "--scenes generates"),
        (["--table", "nope"], 1, "no table 'nope'"),
        (["--recipe", "nope"], 1, "no recipe 'nope'"),
        (
            ["--table", "t.yaml", "--recipe", "tiny.yaml", "--set", "widht=3"],
            1,
            "did you mean width",
        ),
    ],
)
def test_mistakes(
    project: Path,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["ablate", *arguments]) == code
    assert message in capsys.readouterr().err
