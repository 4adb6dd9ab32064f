"""`d2s export` as a user types it."""

import json
from pathlib import Path

import pytest

from pipelines.cli import run
from tests.captioner.finished_run import write_finished


@pytest.fixture(autouse=True)
def _stand_beside_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_finished(Path("run"), Path(), {"a.jpg": "A house.", "b.jpg": None, "c.jpg": "A tree."})


def test_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "run", "--format", "jsonl", "--out", "x/rows.jsonl", "--only-ok"]
    assert run([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out == "2 rows to x/rows.jsonl as jsonl\ndry run: nothing was written\n"
    assert not Path("x").exists()
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert said.out.startswith("2 rows in x/rows.jsonl (jsonl, 1 file, ")
    assert said.out.endswith("left out because they have no text: 1 decode_error\n")
    assert run([*arguments, "--json", "--overwrite"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["out"] == "x/rows.jsonl" and about["left_out"] == {"decode_error": 1}
    assert about["bytes"] == Path("x/rows.jsonl").stat().st_size


def test_ids_taken_once_are_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Path("ids.txt").write_text("2\n2\n0\n0\n")
    arguments = ["export", "run", "--format", "d2s-jsonl", "--ids", "ids.txt", "--out"]
    assert run([*arguments, "t_test.jsonl"]) == 0
    said = capsys.readouterr()
    assert said.err == "ids.txt has each of its 2 ids 2 times in a row: used once\n"
    texts = [json.loads(line)["text"] for line in Path("t_test.jsonl").read_text().splitlines()]
    assert texts == ["A tree.", "A house."]


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("ids.txt").write_text("0\n1\n")
    for arguments, words in (
        (["nope", "--format", "jsonl", "--out", "o"], "is not the folder of a captioning run"),
        (["run", "--format", "jsonl", "--out", "run"], "run exists"),
        (["run", "--format", "webdataset", "--out", "o"], "a.jpg can no longer be used"),
        (["run", "--format", "d2s-jsonl", "--out", "o", "--ids", "ids.txt"], "1 (decode_error)"),
        (["run", "--format", "jsonl", "--out", "ids.txt/o"], "cannot write ids.txt/o"),
    ):
        assert run(["export", *arguments]) == 1
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and words in said.err
    assert not Path("o").exists()
    assert run(["export", "run", "--format", "xml", "--out", "o"]) == 2
    assert run(["export", "run", "--format", "jsonl"]) == 2


@pytest.mark.parametrize(
    ("format", "option"),
    [
        ("jsonl", ["--images", "photos"]),
        ("txt", ["--images", "photos"]),
        ("parquet", ["--images", "photos"]),
        ("csv", ["--shard-size", "5"]),
        ("txt", ["--shard-size", "5"]),
        ("jsonl", ["--embed-images"]),
    ],
)
def test_options_without_effect_are_refused(
    capsys: pytest.CaptureFixture[str], format: str, option: list[str]
) -> None:
    Path("photos").mkdir()
    assert run(["export", "run", "--format", format, "--out", "o", *option]) == 2
    assert option[0] in capsys.readouterr().err and not Path("o").exists()


def test_options_with_an_effect_are_not() -> None:
    """CSV names the images, and Parquet has shards."""
    Path("photos").mkdir()
    assert run(["export", "run", "--format", "csv", "--out", "o.csv", "--images", "photos"]) == 0
    assert "photos/a.jpg" in Path("o.csv").read_text()
    assert run(["export", "run", "--format", "parquet", "--out", "o", "--shard-size", "2"]) == 0
    assert len(list(Path("o").iterdir())) == 2
