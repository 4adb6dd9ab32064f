"""A walk runs real d2s commands, remembers what is done, and stops at the first that fails."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from pipelines.walk.steps import Command, Walk

TINY = ("--train", "2", "--val", "1", "--test", "1")


def scenes(name: str, out: str) -> Command:
    return Command(name, ("scenes", "--out", out, *TINY))


def test_a_finished_step_is_not_done_again(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    Walk(tmp_path, settings={"seed": 0}).run(scenes("scenes", "world"))
    assert (tmp_path / "world" / "dataset_scenes.json").exists()
    first = capfd.readouterr().err
    assert "$ d2s scenes --out world" in first
    again = Walk(tmp_path, settings={"seed": 0})
    again.run(scenes("scenes", "world"))
    assert "done before" in capfd.readouterr().err
    assert again.seconds()["scenes"] > 0


def test_a_failing_step_stops_the_walk_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "mine.txt").write_text("keep me")
    walk = Walk(tmp_path, settings={})
    with pytest.raises(UserError, match=r"scenes failed \(exit code 1\).*d2s scenes --out world"):
        walk.run(scenes("scenes", "world"))
    assert not walk.record["steps"]["scenes"]["done"]
    (tmp_path / "world" / "mine.txt").unlink()
    walk.run(scenes("scenes", "world"))
    assert json.loads((tmp_path / "steps.json").read_text())["steps"]["scenes"]["done"]


def test_chains_side_by_side_mark_their_lines(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    walk = Walk(tmp_path, settings={})
    walk.run_side_by_side([scenes("a", "one")], [scenes("b", "two")])
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("[a] 4 scenes in one") for line in lines)
    assert any(line.startswith("[b] 4 scenes in two") for line in lines)


def test_a_failure_beside_another_chain_is_raised(tmp_path: Path) -> None:
    (tmp_path / "two").write_text("a file where a folder should be")
    walk = Walk(tmp_path, settings={})
    with pytest.raises(UserError, match="b failed"):
        walk.run_side_by_side([scenes("a", "one")], [scenes("b", "two"), scenes("c", "three")])
    assert walk.record["steps"]["a"]["done"]
    assert "c" not in walk.record["steps"]


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    Walk(tmp_path, settings={"seed": 0, "train": 10})
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        Walk(tmp_path, settings={"seed": 1, "train": 10})
