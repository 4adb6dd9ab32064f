"""Texts of every format become the shards of a finished run; whatever does not fit is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.imports.columns import TextColumns
from captioner.imports.run import ImportOptions, PreparedImport, prepare_import, write_import
from captioner.imports.texts import normalise_file_name
from captioner.store.plan import read_plan
from data.dense.run import find_source, read_run
from data.dense.shards import read_rows
from data.errors import UserError
from data.sources.files import list_folder
from data.sparse.released import format_dense_line
from tests.captioner.images import write_images

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "f30k_text"
TEXTS = ["A dog runs over the wide green lawn.", "Two men sit on a roof and", ""]
NAMES = ["a.jpg", 'b "2"\n.jpg', "c.jpg"]


def prepare(*options: Any, **more: Any) -> PreparedImport:
    return prepare_import(ImportOptions(*options, **more))


def write_released(folder: Path, *, repeats: int = 1) -> dict[str, Any]:
    """Three texts with ids 10, 4, 7 and their mapping, as options of an import."""
    lines = [format_dense_line(text, model_id="llava") + "\n" for text in TEXTS]
    (folder / "t_test.jsonl").write_text("".join(lines))
    ids = ["10", "4", "7"]
    (folder / "test_ids.txt").write_text("".join(f"{name}\n" * repeats for name in ids))
    mapping = dict(zip(ids, NAMES, strict=True)) | {"99": "z.jpg"}
    (folder / "id_mapping.json").write_text(json.dumps(mapping))
    return {
        "file": str(folder / "t_test.jsonl"),
        "ids": folder / "test_ids.txt",
        "id_mapping": folder / "id_mapping.json",
        "out": folder / "out",
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """As JSON lines, CSV or Parquet, by the name."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def rows_of(prepared: PreparedImport) -> list[dict[str, Any]]:
    write_import(prepared)
    rows: list[dict[str, Any]] = read_rows(prepared.directory).to_pylist()
    return rows


def test_released_texts_by_their_place(tmp_path: Path) -> None:
    prepared = prepare(**write_released(tmp_path, repeats=5), split="test", shard_size=2)
    rows = rows_of(prepared)
    assert [row["image_id"] for row in rows] == ["10", "4", "7"]
    assert [row["file_name"] for row in rows] == NAMES
    assert [row["caption"] for row in rows] == TEXTS
    # An empty text is what the source says, as a captioner that says nothing has an empty row too.
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert [row["flags"] for row in rows] == [[], ["short", "truncated"], ["empty"]]
    assert rows[0]["caption_words"] == 8 and rows[0]["repetition"] == 0
    assert {row["engine"] for row in rows} == {"imported"}
    assert {row["split"] for row in rows} == {"test"}
    unknown = ("width", "image_sha256", "finish_reason", "caption_tokens", "seed", "attempt")
    assert all(row[name] is None for row in rows for name in unknown)
    assert "each of its 3 ids 5 times in a row" in prepared.notes[0]


def test_the_run_is_a_captioning_run_like_any(tmp_path: Path) -> None:
    prepared = prepare(**write_released(tmp_path), shard_size=2)
    write_import(prepared)
    run = read_run(prepared.directory)
    assert run["complete"] is True and run["shards"] == 2 and run["planned"] == 3
    assert run["counts"] == {"rows": 3, "ok": 3, "errors": 0}
    assert run["flags"] == {"empty": 1, "short": 1, "truncated": 1}
    assert run["model"] == "llava" and run["settings"]["engine"] == "imported"
    assert run["images"] is None and run["source"] is None
    assert run["fingerprint"] == prepared.fingerprint
    plan = read_plan(prepared.directory, shard_size=2)
    assert [record.file_name for record in plan.records] == NAMES
    names = {path.name for path in prepared.directory.iterdir()}
    shards = {f"train-0000{number}-of-00002.parquet" for number in range(2)}
    assert names == {"run.json", "plan.parquet", "receipts.jsonl"} | shards


def test_an_image_has_the_same_sample_id_as_in_a_captioned_folder(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 2)
    rows = [{"file_name": name, "caption": "x"} for name in names]
    file = write_rows(tmp_path / "t.jsonl", rows)
    prepared = prepare(file, images=tmp_path / "i", model_name="m", out=tmp_path / "out")
    listed = [record.sample_id for record in list_folder(tmp_path / "i").records]
    assert [row["sample_id"] for row in rows_of(prepared)] == listed
    assert read_run(tmp_path / "out")["images"] == str(tmp_path / "i")


def test_a_text_at_three_images_is_flagged_as_in_any_run(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.jpg", "caption": TEXTS[0] if n < 3 else "x"} for n in range(4)]
    file = write_rows(tmp_path / "t.jsonl", rows)
    found = rows_of(prepare(file, model_name="m", out=tmp_path / "out", shard_size=2))
    assert ["duplicate" in row["flags"] for row in found] == [True, True, True, False]
    assert read_run(tmp_path / "out")["flags"]["duplicate"] == 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"t_test.jsonl": '{"text": "a"}\n'}, "has 1 lines and .*test_ids.txt 3 ids"),
        ({"t_test.jsonl": '{"text": "a"}\n{"text\n{"text": "c"}\n'}, "line 2 is not JSON"),
        ({"test_ids.txt": "10\n4\n10\n"}, "the id 10 in line 3 is already in line 1"),
        ({"test_ids.txt": "10\n4\n8\n"}, "the file name of the image '8' is unknown"),
        ({"id_mapping.json": '{"10": "a", "4": "b", "7": "./a"}'}, "more than one row"),
        ({"id_mapping.json": '{"10": "a", "4": "b", "7": "../a"}'}, "leads out of the image"),
        ({"id_mapping.json": '{"10": "a", "4": "b", "7": "/etc/passwd"}'}, "leads out of the im"),
    ],
)
def test_released_files_that_do_not_fit(
    tmp_path: Path, change: dict[str, str], complaint: str
) -> None:
    arguments = write_released(tmp_path)
    for name, text in change.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=complaint):
        prepare(**arguments)
    assert not (tmp_path / "out").exists()


def test_released_texts_need_ids_and_one_model(tmp_path: Path) -> None:
    arguments = write_released(tmp_path)
    with pytest.raises(UserError, match="--ids"):
        prepare(**{**arguments, "ids": None})
    file = tmp_path / "t_test.jsonl"
    file.write_text(file.read_text().replace("llava", "other", 1))
    with pytest.raises(UserError, match="names 2 models: specify with --model-name"):
        prepare(**arguments)
    assert prepare(**arguments, model_name="m").settings["model"] == "m"


def test_metadata_that_is_lost_is_told(tmp_path: Path) -> None:
    arguments = write_released(tmp_path)
    file = tmp_path / "t_test.jsonl"
    file.write_text(file.read_text().replace('"length": 0', '"length": 0, "score": 1'))
    assert "1 lines have metadata" in prepare(**arguments).notes[0]


def talk(number: int, image: str, text: str, *, turns: int = 1) -> dict[str, Any]:
    human = {"from": "human", "value": "<image>\nDescribe."}
    said = [human, {"from": "gpt", "value": text}] * turns
    return {"id": f"{number:03d}", "image": image, "conversations": said}


def test_sharegpt_by_id_and_image_never_by_place(tmp_path: Path) -> None:
    entries = [talk(1, "coco/a.jpg", "An a."), talk(2, "sam/b.jpg", "A b."), talk(3, "c.jpg", "C.")]
    file = tmp_path / "sharegpt4v.json"
    file.write_text(json.dumps(entries))
    (tmp_path / "ids.txt").write_text("30\n10\n")
    (tmp_path / "map.json").write_text('{"10": "coco/a.jpg", "30": "c.jpg"}')
    whole = prepare(str(file), model_name="gpt-4v", out=tmp_path / "whole")
    assert [row["image_id"] for row in rows_of(whole)] == ["001", "002", "003"]
    some = prepare(
        str(file),
        ids=tmp_path / "ids.txt",
        id_mapping=tmp_path / "map.json",
        model_name="gpt-4v",
        out=tmp_path / "some",
    )
    rows = rows_of(some)
    assert [(row["image_id"], row["file_name"], row["caption"]) for row in rows] == [
        ("30", "c.jpg", "C."),
        ("10", "coco/a.jpg", "An a."),
    ]
    assert "1 of 3 texts belong to images that are not in ids.txt" in some.notes[0]
    (tmp_path / "ids.txt").write_text("001\n009\n")
    with pytest.raises(UserError, match="1 of 2 ids have no row in sharegpt4v.json: 009"):
        prepare(str(file), ids=tmp_path / "ids.txt", model_name="gpt-4v")


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"a": 1}, "which is a list"),
        ([{"id": "1", "conversations": []}], "entry 0 lacks 'image'"),
        ([talk(1, "a", "A"), "x"], "entry 1 lacks"),
        ([talk(1, "a", "A"), talk(2, "a", "B")], "more than one row .*: a"),
        ([talk(1, "a", "A"), talk(1, "b", "B")], "more than one row .*: 001"),
        (
            [talk(1, "a", "A") | {"conversations": talk(1, "a", "A")["conversations"] * 2}],
            "4 turns",
        ),
        ([talk(1, "a", "A", turns=0)], "0 turns"),
        ([talk(1, "a", "A") | {"image": 5}], "not text"),
        ([], "contains no text"),
    ],
)
def test_sharegpt_that_is_refused(tmp_path: Path, entries: Any, complaint: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=complaint):
        prepare(str(file), model_name="m")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_tables(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"image_id": str(number), "file_name": name, "text": text, "split": "val", "model": "m"}
        for number, (name, text) in enumerate(zip(NAMES, TEXTS, strict=True))
    ]
    file = write_rows(tmp_path / f"t.{suffix}", rows)
    found = rows_of(prepare(file, out=tmp_path / "out"))
    assert [row["caption"] for row in found] == TEXTS
    assert [row["file_name"] for row in found] == NAMES
    assert [row["image_id"] for row in found] == ["0", "1", "2"]
    assert {row["split"] for row in found} == {"val"}
    assert read_run(tmp_path / "out")["settings"]["source"]["format"] == suffix


def test_the_datasets_library_reads_a_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    image = {"bytes": b"not read", "path": "a.jpg"}
    write_rows(tmp_path / "set/train.parquet", [{"image": image, "id": 3, "caption": TEXTS[0]}])
    prepared = prepare(str(tmp_path / "set"), model_name="m", out=tmp_path / "out")
    row = rows_of(prepared)[0]
    assert (row["image_id"], row["file_name"], row["caption"]) == ("3", "a.jpg", TEXTS[0])
    with pytest.raises(UserError, match="cannot be loaded"):
        prepare(str(tmp_path / "set"), model_name="m", split="nothing")


def test_columns_by_name(tmp_path: Path) -> None:
    rows = [{"text": "T", "caption": "C", "key": 5, "where": "a.jpg"}]
    file = write_rows(tmp_path / "t.jsonl", rows)
    with pytest.raises(UserError, match="2 columns that could be the text: .*--text-column"):
        prepare(file, model_name="m")
    with pytest.raises(UserError, match="no column of ids or file names"):
        prepare(file, model_name="m", columns=TextColumns(text="text"))
    with pytest.raises(UserError, match="no column 'nope'"):
        prepare(file, model_name="m", columns=TextColumns(text="nope"))
    columns = TextColumns(text="text", id="key", file="where")
    row = rows_of(prepare(file, model_name="m", columns=columns, out=tmp_path / "o"))[0]
    assert (row["caption"], row["image_id"], row["file_name"]) == ("T", "5", "a.jpg")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is not a JSON object"),
        ('{"file_name": "b.jpg", "caption": 5}', "line 2: the column 'caption' contains no text"),
        ('{"file_name": 5, "caption": "b"}', "line 2: the column 'file_name' contains no text"),
        ('{"file_name": "b", "image_id": [1], "caption": "b"}', r"line 2: .1. is not an id"),
        ('{"file_name": "x/../../b", "caption": "b"}', "line 2: the file name .* leads out"),
        ('{"file_name": "\\ud800", "caption": "b"}', "is not valid text"),
        ('{"file_name": "", "image_id": 7, "caption": "b"}', "the file name .* is unknown"),
        ('{"file_name": "", "caption": "b"}', "line 2 has neither a file name nor an id"),
    ],
)
def test_a_bad_row_is_named_and_not_passed_over(tmp_path: Path, line: str, complaint: str) -> None:
    first = '{"file_name": "a.jpg", "image_id": "1", "caption": "a"}'
    (tmp_path / "t.jsonl").write_text(f"{first}\n{line}\n")
    with pytest.raises(UserError, match=complaint):
        prepare(str(tmp_path / "t.jsonl"), model_name="m")


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    """Rows are found by their columns."""
    rows = [f'{{"file_name": "{name}.jpg", "caption": "{name}"}}' for name in "ab"]
    (tmp_path / "t.jsonl").write_text(f"\n{rows[0]}\n \n\n{rows[1]}\n\n")
    found = rows_of(prepare(str(tmp_path / "t.jsonl"), model_name="m", out=tmp_path / "o"))
    assert [row["caption"] for row in found] == ["a", "b"]


def test_csv_rows_of_another_width(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('file_name,caption\n"a\n.jpg",A\nb.jpg,B,C\n')
    with pytest.raises(UserError, match="line 4 has 3 columns, but the header has 2"):
        prepare(str(tmp_path / "t.csv"), model_name="m")
    (tmp_path / "t.csv").write_text("file_name,caption,caption\na,b,c\n")
    with pytest.raises(UserError, match="two columns with the same name"):
        prepare(str(tmp_path / "t.csv"), model_name="m")


def test_a_row_without_a_text_is_an_error_row(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.jpg", "caption": None, "status": "decode_error", "error": "damaged"},
        {"file_name": "b.jpg", "caption": None, "status": "ok", "error": None},
        {"file_name": "c.jpg", "caption": "half \ud83d of", "status": "ok", "error": None},
    ]
    file = write_rows(tmp_path / "t.jsonl", rows)
    found = rows_of(prepare(file, model_name="m", out=tmp_path / "out"))
    assert [(row["status"], row["error"]) for row in found] == [
        ("decode_error", "damaged"),
        ("engine_error", "the source has no text for it"),
        ("ok", None),
    ]
    assert found[0]["flags"] is None and found[2]["caption"] == "half ? of"
    assert read_run(tmp_path / "out")["counts"] == {"rows": 3, "ok": 1, "errors": 2}


def test_human_captions_by_line(tmp_path: Path) -> None:
    arguments = write_released(tmp_path, repeats=5)
    caps = tmp_path / "test_caps.txt"
    caps.write_text("".join(f"caption {number}\n" for number in range(15)))
    prepared = prepare(**arguments, captions=caps, limit=2)
    rows = rows_of(prepared)
    assert [row["captions"] for row in rows] == [
        [f"caption {number}" for number in range(start, start + 5)] for start in (0, 5)
    ]
    caps.write_text("one\n" * 14)
    with pytest.raises(UserError, match="14 lines, which 3 ids cannot share"):
        prepare(**arguments, captions=caps)


def test_human_captions_by_file_name(tmp_path: Path) -> None:
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": f"of {name}"}], "cocoid": number}
        for number, (name, split) in enumerate([("c.jpg", "val"), ("a.jpg", "restval")])
    ]
    source = tmp_path / "dataset_x.json"
    source.write_text(json.dumps({"images": images}))
    prepared = prepare(**write_released(tmp_path), captions=source)
    rows = rows_of(prepared)
    assert [row["captions"] for row in rows] == [["of a.jpg"], None, ["of c.jpg"]]
    assert [row["split"] for row in rows] == ["train", None, "val"]
    assert "no captions for 1 images" in prepared.notes[0]
    source.write_text(json.dumps({"images": [images[0] | {"filename": "q.jpg"}]}))
    with pytest.raises(UserError, match="captions for none of the images"):
        prepare(**write_released(tmp_path), captions=source)


def test_twice_is_once_and_something_else_is_refused(tmp_path: Path) -> None:
    arguments = write_released(tmp_path)
    write_import(prepare(**arguments))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = prepare(**arguments)
    assert again.previous is not None
    write_import(again)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    for name in ("first", "moved"):
        (tmp_path / name).mkdir()
        record = write_import(prepare(**arguments, images=tmp_path / name))
        assert record == read_run(tmp_path / "out")
        assert find_source(record, where=tmp_path, images=None).root == str(tmp_path / name)
        assert write_import(prepare(**arguments)) == record
    with pytest.raises(UserError, match="prompt: None -> Describe"):
        prepare(**arguments, prompt="Describe")
    file = tmp_path / "t_test.jsonl"
    file.write_text(file.read_text().replace("dog", "cat"))
    with pytest.raises(UserError, match="rows_sha256: "):
        prepare(**arguments)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("")
    with pytest.raises(UserError, match="contains other files"):
        prepare(**{**arguments, "out": tmp_path / "other"})


def test_a_run_that_began_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """`d2s caption` has the same default folder, and an import takes a while."""
    arguments = write_released(tmp_path)
    prepared = prepare(**arguments)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").write_text("")
    with pytest.raises(UserError, match="another process"):
        write_import(prepared)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = write_released(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="current folder"):
        prepare(**{**arguments, "out": Path()})


def test_an_absolute_name_is_cut_to_the_images_folder(tmp_path: Path) -> None:
    def normalise(name: str) -> str:
        return normalise_file_name(name, images=tmp_path, where="here")

    assert normalise(str(tmp_path / "x" / "a.jpg")) == "x/a.jpg"
    assert normalise("./x//a.jpg") == "x/a.jpg"
    for bad in ("/x/a.jpg", "..", ".", "x/../../y", str(tmp_path), "a\0b"):
        with pytest.raises(UserError, match="leads out of the image folder"):
            normalise(bad)


def test_files_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; .* use hf:NAME"):
        prepare(str(tmp_path / "nope.jsonl"))
    (tmp_path / "x.doc").write_text("")
    with pytest.raises(UserError, match="--format"):
        prepare(str(tmp_path / "x.doc"))
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        prepare(str(tmp_path / "x.parquet"))
    for name in ("x.jsonl", "x.csv"):
        (tmp_path / name).write_text("")
        with pytest.raises(UserError, match="is empty"):
            prepare(str(tmp_path / name))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the Flickr30K texts are not beside the repository")
def test_the_released_flickr_texts(tmp_path: Path) -> None:
    prepared = prepare(
        str(SHARED / "f30k_test.jsonl"),
        ids=SHARED / "test_ids.txt",
        id_mapping=SHARED / "id_mapping.json",
        captions=SHARED / "test_caps.txt",
        out=tmp_path / "out",
    )
    rows = rows_of(prepared)
    assert len(rows) == 1000
    first = rows[0]
    assert first["image_id"] == "25" and "beer hat" in first["caption"]
    assert any("beer can crocheted hat" in caption for caption in first["captions"])
    assert 80 < sum(row["caption_words"] for row in rows) / len(rows) < 130
    assert all(row["flags"] is not None and row["repetition"] is not None for row in rows)


def test_a_split_selects_rows_that_have_one(tmp_path: Path) -> None:
    rows = [
        {"file_name": f"{split}.jpg", "caption": "x", "split": split}
        for split in ("train", "val", "test")
    ]
    file = write_rows(tmp_path / "t.jsonl", rows)
    prepared = prepare(file, split="val", model_name="m", out=tmp_path / "out")
    [row] = rows_of(prepared)
    assert (row["file_name"], row["split"]) == ("val.jpg", "val")
    assert any("2 of 3 texts are not of the split val" in note for note in prepared.notes)
    with pytest.raises(UserError, match="no split 'dev'"):
        prepare(file, split="dev", model_name="m", out=tmp_path / "dev")
    for row in rows:
        del row["split"]
    plain = write_rows(tmp_path / "plain.csv", rows)
    rows = rows_of(prepare(plain, split="val", model_name="m", out=tmp_path / "plain"))
    assert [row["split"] for row in rows] == ["val"] * 3
