"""Photos that nobody has captioned: `d2s train` and `d2s evaluate` with nothing but dense text."""

import json
from pathlib import Path

import pytest

from pipelines.cli import run
from tests.vse.world import dense_of, write_dense
from vse.runs.config import read_config
from vse.runs.folder import read_log
from vse.sharing.card import write_card


@pytest.fixture
def photos(project: Path) -> Path:
    """The project without its captions, its dense text of two sentences."""
    texts = {name: f"{text} It is a drawing." for name, text in dense_of(project / "world").items()}
    write_dense(project / "dense/photos", project / "world", texts)
    for path in (*(project / "dense/world").iterdir(), project / "world/dataset_world.json"):
        path.unlink()
    (project / "dense/world").rmdir()
    return project


SHORT = ("--recipe", "tiny.yaml", "--steps", "2", "--set", "data.max_missing=0.2")


def test_both_stages_and_the_evaluation_take_the_first_sentence(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *SHORT]) == 0
    said = capsys.readouterr().err
    assert "no human captions" in said and "80/10/10" in said and "dense/photos" in said
    log = [e for e in read_log(Path("runs/stage2")) if e["event"] == "evaluation"]
    assert log and log[-1]["sparse"]["rsum"] > 0
    assert run(["evaluate", "--json"]) == 0
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert found["dataset"] == "photos" and 0 < found["images"] == found["captions"] < 20
    assert any("first sentence" in note for note in found["left_out"])
    config = read_config(Path("runs/stage2"))
    assert config is not None and "first sentence" in config["data"]["sparse_side"]
    assert config["data"]["captions"] is None
    assert "first sentence" in write_card(config, [])
    # The splits are those of the sample ids, in the baseline too.
    assert run(["train", "--stage", "sparse", *SHORT]) == 0
    other = read_config(Path("runs/sparse"))
    assert other is not None and other["data"]["split_counts"] == config["data"]["split_counts"]
    assert run(["evaluate", "--model", "runs/sparse", "--model", "runs/stage2"]) == 0


def test_a_condensed_text_is_the_sparse_side(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dense/photos").rename("dense/moved")
    Path("dense/photos").mkdir()
    Path("dense/moved").rename("dense/photos/dense")
    names = json.loads(Path("dense/photos/dense/run.json").read_text())["images"]
    short = {path.relative_to(names).as_posix(): "a square" for path in Path(names).rglob("*.png")}
    write_dense(Path("dense/photos/condensed"), Path("world"), short)
    assert run(["train", "--stage", "joint", *SHORT]) == 0
    assert "text condensed is used as sparse text" in capsys.readouterr().err
    assert run(["evaluate", "--model", "runs/joint", "--json"]) == 0
    out = capsys.readouterr()
    assert "text condensed" in out.err
    # The same by name, wherever the folder lies now.
    Path("dense").rename("elsewhere")
    line = run(["evaluate", "--model", "runs/joint"])
    assert line == 1 and "--captions" in capsys.readouterr().err
    Path("elsewhere").rename("dense")
    named = ("--set", "data.texts=[condensed]", "--set", "data.sparse_text=dense")
    assert run(["train", "--stage", "1", *SHORT, *named, "--dry-run"]) == 0
    assert "text dense is used as sparse text" in capsys.readouterr().err


def test_captions_by_people_come_first(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dense(
        project / "dense/world",
        project / "world",
        dense_of(project / "world"),
        more={"train/000.png": {"captions": ["a square"]}},
    )
    captions = project / "world/dataset_world.json"
    captions.rename(project / "kept.json")
    assert run(["train", "--stage", "1", *SHORT]) == 1
    assert "--captions" in capsys.readouterr().err
    both = ("--captions", "kept.json", "--set", "data.sparse_text=dense")
    assert run(["train", "--stage", "1", *SHORT, *both]) == 1
    assert "data.sparse_text" in capsys.readouterr().err


def test_captions_written_after_stage_1_are_not_read_by_stage_2(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their splits could put images that stage 1 has seen into the test split."""
    assert run(["train", "--stage", "1", *SHORT]) == 0
    Path("world/captions.txt").write_text(
        "image,split,caption\n"
        + "".join(
            f"{path.relative_to('world')},test,a thing\n" for path in Path("world").rglob("*.png")
        )
    )
    capsys.readouterr()
    again = ["train", "--stage", "2", "--steps", "2", "--set", "data.max_missing=0.2", "--dry-run"]
    assert run(again) == 0
    assert "no human captions" in capsys.readouterr().err
