"""`d2s import` as a user types it, and training on what it wrote."""

import json
from pathlib import Path

import pytest

from data.dense.shards import read_rows
from pipelines.cli import run
from tests.vse.world import dense_of, write_recipe, write_world


@pytest.fixture(autouse=True)
def _stand_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_texts(path: Path, texts: dict[str, str | None]) -> None:
    rows = [{"file_name": name, "caption": text} for name, text in texts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_texts(Path("texts.jsonl"), {"a.jpg": "A house stands on a green hill.", "b.jpg": None})
    arguments = ["import", "texts.jsonl", "--model-name", "llava"]
    assert run([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "2 from texts.jsonl (jsonl)" in said.out and not Path("dense").exists()
    assert run(arguments) == 3
    said = capsys.readouterr()
    assert said.out == "2 rows in dense/texts: 1 ok, 1 engine_error\nflags: short 1\n"
    assert "import: 2 of 2 texts" in said.err
    assert run([*arguments, "--json"]) == 3
    about = json.loads(capsys.readouterr().out)
    assert about["directory"] == "dense/texts" and about["new"] is False
    assert about["counts"] == {"rows": 2, "ok": 1, "errors": 1}


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.jsonl").write_text('{"text": "a\nb"}\n')
    assert run(["import", "x.jsonl", "--format", "d2s-jsonl"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "--ids" in said.err
    Path("ids.txt").write_text("1\n2\n")
    assert run(["import", "x.jsonl", "--format", "d2s-jsonl", "--ids", "ids.txt"]) == 1
    said = capsys.readouterr()
    assert "x.jsonl: line 1 is not JSON" in said.err and said.err.count("\n") == 1
    assert run(["import", "x.jsonl", "--format", "nothing"]) == 2


def test_training_on_imported_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_world(tmp_path / "world")
    write_recipe(tmp_path / "tiny.yaml")
    write_texts(Path("texts.jsonl"), {**dense_of(tmp_path / "world")})
    arguments = ["import", "texts.jsonl", "--model-name", "m", "--out"]
    assert run([*arguments, "dense/world", "--images", "world"]) == 0
    assert read_rows(Path("dense/world")).num_rows == 64
    train = ["train", "--stage", "1", "--recipe", "tiny.yaml"]
    capsys.readouterr()
    assert run([*train, "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "dense     dense/world" in said and "48 train, 8 val, 8 test" in said
    assert "images    world\n" in said
    assert run([*train, "--steps", "2"]) == 0
    # Without --images the run cannot say where they are, and training asks.
    assert run([*arguments, "bare"]) == 0
    capsys.readouterr()
    assert run([*train, "--dense", "bare", "--dry-run"]) == 1
    assert "does not record where its images are" in capsys.readouterr().err
    bare = ["--dense", "bare", "--images", "world", "--out", "other"]
    assert run([*train, *bare, "--dry-run"]) == 0


def test_names_that_do_not_lie_there_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    write_texts(Path("t.jsonl"), {"a.jpg": "A.", "b.jpg": "B."})
    assert run(["import", "t.jsonl", "--model-name", "m", "--images", "photos"]) == 0
    assert "1 of 2 images are not in photos (for example b.jpg" in capsys.readouterr().err
    assert Path("dense/photos/run.json").is_file()
    assert run(["import", "t.jsonl", "--model-name", "m", "--images", "nope"]) == 1
    assert "image folder nope does not exist" in capsys.readouterr().err
