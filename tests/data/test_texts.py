"""Texts to embed, from every kind of file."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.tables.texts import TextRecord, read_texts
from tests.vse.world import dense_of, write_dense, write_world


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffa red car\n\n  zwei Hunde, ä \r\nlast")
    assert read_texts(path) == [
        TextRecord("1", "a red car"),
        TextRecord("3", "zwei Hunde, ä"),
        TextRecord("4", "last"),
    ]


def test_json_lines_and_parquet_have_columns(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "caption": "a", "file_name": "x.jpg", "image_id": 3},
        {"id": 8, "caption": None, "file_name": "y.jpg", "image_id": None},
        {"id": None, "caption": "", "file_name": None, "image_id": None},
    ]
    expected = [
        TextRecord("7", "a", "3", "x.jpg"),
        TextRecord("8", None, None, "y.jpg"),
        TextRecord("3", ""),
    ]
    lines = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read_texts(lines) == expected
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_texts(tmp_path / "a.parquet") == expected
    pq.write_table(pa.table({"said": ["a", "b"], "text": ["c", "d"]}), tmp_path / "b.parquet")
    assert [r.text for r in read_texts(tmp_path / "b.parquet", column="said")] == ["a", "b"]
    assert [r.text for r in read_texts(tmp_path / "b.parquet")] == ["c", "d"]


def test_csv_and_data_sets_are_tables_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,text,more\n7,"a, b",x\n8,c,y\n')
    assert read_texts(path) == [TextRecord("7", "a, b"), TextRecord("8", "c")]
    assert [r.text for r in read_texts(path, column="more")] == ["x", "y"]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"caption": ["a", None]}), tmp_path / "set" / "train.parquet")
    found = read_texts(Path(f"hf:{tmp_path / 'set'}"), split="train")
    assert found == [TextRecord("1", "a"), TextRecord("2", None)]


def test_blank_json_lines_are_no_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n\n')
    assert read_texts(path) == [TextRecord("1", "a"), TextRecord("2", "b")]


def test_captions_of_images_keep_their_image(tmp_path: Path) -> None:
    write_world(tmp_path, train=2, val=1, test=1)
    path = tmp_path / "dataset_world.json"
    found = read_texts(path)
    assert len(found) == 12 and found[4].id == "1#1" and found[4].file_name == "train/001.png"
    assert [r.file_name for r in read_texts(path, split="val")] == ["val/000.png"] * 3
    flickr = write(tmp_path / "captions.txt", "image,caption\na.jpg,one\na.jpg,two\n")
    assert [(r.id, r.text) for r in read_texts(flickr)] == [("a.jpg#0", "one"), ("a.jpg#1", "two")]


def test_a_captioning_run(tmp_path: Path) -> None:
    write_world(tmp_path / "world", train=2, val=1, test=1)
    texts: dict[str, str | None] = {**dense_of(tmp_path / "world"), "test/000.png": None}
    write_dense(tmp_path / "dense", tmp_path / "world", texts)
    found = read_texts(tmp_path / "dense")
    assert [(r.file_name, r.text) for r in found] == list(texts.items())


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    wrong = {
        "do not exist": tmp_path / "none.txt",
        "not a known kind": write(tmp_path / "a.pdf", "x"),
        "contains no texts": write(tmp_path / "empty.txt", "\n\n"),
        "line 2 is not JSON": write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text"\n'),
        "line 1 is not a JSON object": write(tmp_path / "b.jsonl", "[1]\n"),
        "line 1 has a text that is not text": write(tmp_path / "c.jsonl", '{"text": 3}\n'),
        "no text column .it has x.: specify one with --text-column": tmp_path / "x.parquet",
        "cannot be read as Parquet": write(tmp_path / "y.parquet", "no parquet"),
    }
    for complaint, path in wrong.items():
        with pytest.raises(UserError, match=complaint):
            read_texts(path)
    with pytest.raises(UserError, match="--split cannot be used with"):
        read_texts(write(tmp_path / "ok.txt", "a"), split="test")
    with pytest.raises(UserError, match="--text-column cannot be used with"):
        read_texts(tmp_path / "ok.txt", column="a")
    with pytest.raises(UserError, match="no column y"):
        read_texts(tmp_path / "x.parquet", column="y")


def test_captions_that_are_left_out_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "captions.txt", "image,caption\n1.jpg,a\n1.jpg,\n2.jpg,NaN\n")
    told: list[str] = []
    assert [r.text for r in read_texts(path, on_note=told.append)] == ["a"]
    assert len(told) == 1 and "2 captions are blank" in told[0]
