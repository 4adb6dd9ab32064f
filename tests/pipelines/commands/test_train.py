"""`d2s train`: the words a user types, what is found, what is said when something is missing."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from data.files.atomic import write_json
from pipelines.cli import run
from tests.json_outputs import check_json
from tests.vse.world import dense_of, write_dense, write_recipe, write_world
from vse.sharing.package import strip_config


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """Run a command that must fail; returns its one line."""
    assert run(["train", *arguments]) == code
    out = capsys.readouterr()
    assert out.out == ""
    return out.err.strip().splitlines()[-1]


def test_one_stage_after_the_other_as_typed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--stage", "1", "--recipe", "tiny.yaml", "--steps", "4"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    for words in ("images    world", "world/dataset_world.json", "dense     dense/world",
                  "48 train, 8 val, 8 test", "out       runs/stage1"):  # fmt: skip
        assert words in said.err
    # Stage 2 takes the recipe over from stage 1.
    assert run(["train", "--stage", "2", "--steps", "4", "--json"]) == 0
    said = capsys.readouterr()
    outcome = json.loads(said.out)
    check_json("train", outcome)
    assert outcome["out"] == "runs/stage2" and outcome["steps"] == 4
    assert "init      runs/stage1" in said.err
    assert Path("runs/stage2/model.safetensors").is_file()
    assert run(["train", "--stage", "2", "--steps", "4"]) == 0
    assert "already finished: nothing to do" in capsys.readouterr().err
    line = fails(capsys, "--stage", "2", "--steps", "5")
    assert "recipe.optim.steps: 4 -> 5" in line and "--out" in line


def test_stage_2_reads_what_stage_1_has_read(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if several candidates exist by now; named images start the search anew."""
    shutil.copytree("world", "again")
    shutil.copy("world/dataset_world.json", "chosen.json")
    named = ["--images", "again", "--captions", "chosen.json", "--dense", "dense/world"]
    assert run(["train", "--stage", "1", "--recipe", "tiny.yaml", "--steps", "4", *named]) == 0
    shutil.copytree("dense/world", "dense/other")
    capsys.readouterr()
    second = ["train", "--stage", "2", "--steps", "4", "--dry-run"]
    assert run(second) == 0
    said = capsys.readouterr().err
    for words in ("images    again", "captions  chosen.json", "dense     dense/world"):
        assert words in said
    assert run([*second, "--dense", "dense/other", "--captions", "world/dataset_world.json"]) == 0
    said = capsys.readouterr().err
    assert "images    again" in said and "dense     dense/other" in said
    assert "captions  world/dataset_world.json" in said
    assert "--dense" in fails(capsys, *second[1:], "--images", "world")
    # Dense text of other images brings their captions.
    write_dense(Path("dense/more"), Path("more"), dense_of(Path("world")))
    shutil.copytree("world", "more")
    assert run([*second, "--dense", "dense/more"]) == 0
    said = capsys.readouterr().err
    assert "images    more" in said and "captions  more/dataset_world.json" in said
    shutil.rmtree("dense/more")
    # A shared model does not say where its data were.
    config = json.loads(Path("runs/stage1/config.json").read_text())
    write_json(Path("runs/stage1/config.json"), strip_config(config))
    assert run([*second, "--dense", "dense/other"]) == 0
    assert "captions  world/dataset_world.json" in capsys.readouterr().err
    write_json(Path("runs/stage1/config.json"), config)
    # Images and dense text that are gone are looked for, but other captions can have other splits.
    shutil.rmtree("again")
    shutil.rmtree("dense/world")
    assert run(second) == 0
    said = capsys.readouterr().err
    assert "images    world" in said and "dense     dense/other" in said
    Path("chosen.json").unlink()
    line = fails(capsys, *second[1:])
    assert "chosen.json" in line and "--captions" in line
    assert run([*second, "--captions", "world/dataset_world.json"]) == 0


def test_the_default_recipe_names_the_weights_it_lacks(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(capsys, "--stage", "1", "--batch-size", "8", "--set", "data.workers=0")
    assert "bert-base-uncased" in line and "hf download bert-base-uncased" in line
    assert not Path("runs/stage1/config.json").exists()


def test_dry_run_writes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--stage", "1", "--recipe", "tiny.yaml", "--dry-run", "--json"]
    assert run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    check_json("train", found, dry_run=True)
    assert found["steps"] == 12
    assert not Path("runs").exists()


def test_dense_text_none_or_two(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("dense/world", "dense/other")
    line = fails(capsys, "--stage", "1", "--recipe", "tiny.yaml")
    assert "2 folders with dense text (dense/other, dense/world)" in line and "--dense" in line
    chosen = ["train", "--stage", "1", "--recipe", "tiny.yaml", "--dense", "dense/other"]
    assert run([*chosen, "--dry-run"]) == 0
    capsys.readouterr()
    shutil.rmtree("dense")
    line = fails(capsys, "--stage", "1", "--recipe", "tiny.yaml")
    assert "no dense text under dense/" in line and "--dense" in line
    # The baseline needs to be told where the images are, and no more.
    line = fails(capsys, "--stage", "sparse", "--recipe", "tiny.yaml")
    assert "--images" in line
    sparse = ["train", "--stage", "sparse", "--recipe", "tiny.yaml", "--images", "world"]
    assert run([*sparse, "--dry-run"]) == 0


def test_captions_none_or_two(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("world/dataset_world.json", "dataset_copy.json")
    line = fails(capsys, "--stage", "1", "--recipe", "tiny.yaml")
    assert "2 caption sources" in line and "dataset_copy.json" in line and "--captions" in line
    named = ["train", "--stage", "1", "--recipe", "tiny.yaml", "--captions", "dataset_copy.json"]
    assert run([*named, "--dry-run"]) == 0
    capsys.readouterr()
    Path("dataset_copy.json").unlink()
    Path("world/dataset_world.json").unlink()
    assert run(["train", "--stage", "1", "--recipe", "tiny.yaml", "--dry-run"]) == 0
    assert "no human captions" in capsys.readouterr().err
    shutil.rmtree("dense")
    sparse = ("--stage", "sparse", "--recipe", "tiny.yaml", "--images", "world")
    assert "--captions" in fails(capsys, *sparse)


def test_images_that_moved(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("world").rename("elsewhere")
    line = fails(capsys, "--stage", "1", "--recipe", "tiny.yaml")
    assert "no longer there" in line and "--images" in line
    arguments = ["train", "--stage", "1", "--recipe", "tiny.yaml", "--images", "elsewhere"]
    assert run([*arguments, "--dry-run"]) == 0


def test_a_dense_run_of_other_images(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dense(Path("dense/world2"), write_other(tmp_path), {"x/1.png": "text"})
    line = fails(capsys, "--stage", "1", "--recipe", "tiny.yaml", "--dense", "dense/world2",
                 "--images", "world")  # fmt: skip
    assert "x/1.png" in line and "train/000.png" in line


def write_other(folder: Path) -> Path:
    write_world(folder / "other", train=1, val=1, test=1)
    return folder / "other"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "1", "--set", "optim.lrr=1"), "did you mean optim.lr"),
        (("--stage", "1", "--recipe", "nope"), "no recipe 'nope'"),
        (("--stage", "2"), "no trained stage 1"),
        (("--stage", "1", "--recipe", "tiny.yaml", "--batch-size", "64"), "48 training items"),
        (("--stage", "1", "--recipe", "tiny.yaml", "--set", "text.max_tokens=400"), "positions"),
    ],
)
def test_one_line_for_each_mistake(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in fails(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--stage", "3"),
        ("--stage", "1", "--steps", "3", "--epochs", "3"),
        ("--stage", "1", "--init", "x"),
        ("--stage", "sparse", "--dense", "x"),
    ],
)
def test_usage(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    fails(capsys, *arguments, code=2)


def test_a_tracker_that_is_not_installed_is_said_before_anything_starts(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A None here makes a package look as if it were not installed.
    monkeypatch.setitem(sys.modules, "wandb", None)
    arguments = ("--stage", "1", "--recipe", "tiny.yaml", "--tracker", "wandb")
    line = fails(capsys, *arguments, "--dry-run")
    assert "--tracker wandb needs the package wandb: pip install wandb" in line


def test_epochs_lift_the_recipes_steps(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--stage", "sparse", "--recipe", "tiny.yaml", "--epochs", "2"]
    assert run([*arguments, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2 * (48 // 16)


def test_without_a_stage_it_is_both(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--recipe", "tiny.yaml", "--steps", "4", "--json"]
    assert run([*words, "--dry-run"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["stage1", "stage2"]
    assert not Path("runs").exists()
    for folder, out in (("runs", []), ("both", ["--out", "both"])):
        assert run([*words, *out]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [one["out"] for one in found.values()] == [f"{folder}/stage1", f"{folder}/stage2"]
        config = json.loads(Path(folder, "stage2/config.json").read_text())
        assert config["init"] == str(Path(folder, "stage1").resolve())
    # As one stage after the other is typed, and the same command again does what is missing.
    assert run(["train", "--stage", "2", "--steps", "4"]) == 0
    assert "already finished" in capsys.readouterr().err
    shutil.rmtree("both/stage2")
    assert run([*words, "--out", "both"]) == 0
    assert "already finished" in capsys.readouterr().err and Path("both/stage2/log.jsonl").is_file()


def test_both_stages_in_several_processes(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe", "tiny.yaml", "--steps", "2", "--gpus", "2"]
    assert run(["train", *words]) == 0
    assert Path("runs/stage2/model.safetensors").is_file()
    assert run(["train", *words, "--json"]) == 2
    assert "--stage" in capfd.readouterr().err


def test_mistakes_in_stage_2_are_found_before_stage_1(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = ["--set", "data.split_dense=true", "--set", "data.texts_per_step=2",
               "--set", "data.sentences=null", "--set", "data.items=captions"]  # fmt: skip
    assert "stage 2 counts captions" in fails(capsys, "--recipe", "tiny.yaml", *several)
    write_recipe(Path("wrong.yaml"), stages={"2": {"teacher": {"mode": "onlin"}}})
    assert "onlin" in fails(capsys, "--recipe", "wrong.yaml")
    assert not Path("runs").exists()
