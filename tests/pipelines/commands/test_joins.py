"""What ties an image to a text, as users meet it: in every command the same rule."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.score.scores import read_scores
from data.dense.shards import read_rows
from pipelines.cli import run
from tests.captioner.images import write_images

ANY = ["--engine", "scripted", "--model", "any"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def column(directory: str, name: str) -> list[str | None]:
    found: list[str | None] = read_rows(Path(directory), [name]).column(0).to_pylist()
    return found


def test_ids_that_became_floats(capsys: pytest.CaptureFixture[str]) -> None:
    """As pandas leaves them where a row has none."""
    names = write_images(Path("i"), 3)
    images = [{"bytes": Path("i", name).read_bytes(), "path": None} for name in names]
    table = {"image": images, "image_id": [391895.0, 522418.0, None]}
    pq.write_table(pa.table(table), "t.parquet")
    assert run(["caption", "--images", "t.parquet", *ANY]) == 0
    assert column("dense/t", "image_id") == ["391895", "522418", None]
    Path("o.json").write_text(json.dumps({"391895": ["dog"], "522418.0": ["cat"]}))
    Path("ids.txt").write_text("522418.0\n000000391895\n")
    capsys.readouterr()
    assert run(["score", "dense/t", "--objects", "o.json"]) == 0
    assert "2 of 3 matched by" in capsys.readouterr().err
    scores = read_scores(Path("dense/t/scores.parquet"))
    assert scores is not None and scores.column("mentioned_objects").null_count == 1
    export = ["export", "dense/t", "--format", "jsonl", "--ids", "ids.txt", "--out", "x.jsonl"]
    assert run(export) == 0
    assert "2 of 2 matched by" in capsys.readouterr().err
    rows = [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in rows] == ["522418", "391895"]


def write_cats(folder: str = "cats/") -> None:
    lines = [f"{folder}{number:04d}.png,cat {number}" for number in range(3)]
    Path("captions.txt").write_text("\n".join(["image,caption", *lines]))


def test_dogs_get_no_captions_of_cats(capsys: pytest.CaptureFixture[str]) -> None:
    write_images(Path("i"), 3, prefix="dogs/")
    write_cats()
    told = ["caption", "--images", "i", "--captions", "captions.txt", *ANY]
    assert run(told) == 1
    assert "no caption of captions.txt belongs to one of the images" in capsys.readouterr().err
    assert run(["caption", "--images", "i/dogs", *told[3:]]) == 0
    assert "3 of 3 matched by" in capsys.readouterr().err
    write_images(Path("i"), 3, prefix="cats/")
    assert run([*told, "--out", "both"]) == 0
    assert column("both", "captions") == [["cat 0"], ["cat 1"], ["cat 2"], None, None, None]
    write_cats(folder="")
    assert run([*told, "--out", "neither"]) == 1


def test_imported_text_of_dogs_is_not_of_cats(capsys: pytest.CaptureFixture[str]) -> None:
    write_images(Path("i"), 3, prefix="cats/")
    write_cats()
    rows = [{"file_name": f"dogs/{number:04d}.png", "text": "A dog."} for number in range(3)]
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = ["import", "t.jsonl", "--model-name", "m"]
    assert run([*known, "--captions", "captions.txt", "--out", "no"]) == 1
    assert "captions for none of the images" in capsys.readouterr().err
    assert run([*known, "--images", "i", "--out", "dense/x"]) == 0
    train = ["train", "--stage", "1", "--recipe", "scenes", "--captions", "captions.txt"]
    assert run([*train, "--dense", "dense/x", "--images", "i", "--dry-run"]) == 1
    assert "no dense text in dense/x belongs to an image" in capsys.readouterr().err
