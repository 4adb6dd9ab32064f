"""Texts in the formats of other programs, out and in again: whatever a text holds."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.exports.run import ExportOptions, ExportResult, prepare_export, write_export
from captioner.imports.columns import TextColumns
from captioner.imports.run import ImportOptions, prepare_import, write_import
from captioner.run.session import caption
from data.dense.shards import read_rows
from data.errors import UserError
from tests.captioner.finished_run import write_finished
from tests.captioner.images import write_images
from tests.data.sources.listing import list_images

HOSTILE = [
    'He said "no", then\nleft.\n\nAnd\tcame back',
    "\u05d7\u05ea\u05d5\u05dc \u202eright to left\u202c and \u2028 a line",
    "b,fake row\n0003\tanother; | '",
    '"',
    "<image>\nUSER: no {json: [1]} \\n \\ \u0301 \U0001f600",
    "=1+1; -- # \ufeff not a mark",
    *("None", "null", "nan"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    names = write_images(tmp_path / "i", len(HOSTILE) + 2)
    texts = dict(zip(names, [*HOSTILE, None, "  "], strict=True))
    return write_finished(tmp_path / "run", tmp_path / "i", texts, captions=('a "short" one', ""))


def export(run: Path, out: Path, format: str, **options: Any) -> ExportResult:
    return write_export(prepare_export(run, ExportOptions(format=format, out=out, **options)))


def bring_in(tmp_path: Path, file: Path, **options: Any) -> dict[str, str]:
    prepared = prepare_import(
        ImportOptions(
            str(file), out=tmp_path / "again", images=tmp_path / "i", model_name="m", **options
        )
    )
    write_import(prepared)
    rows = read_rows(tmp_path / "again").to_pylist()
    return {row["file_name"]: row["caption"] for row in rows}


def list_expected() -> dict[str, str]:
    return {f"{number:04d}.png": text for number, text in enumerate(HOSTILE)}


@pytest.mark.parametrize(
    ("format", "name", "options"),
    [
        ("txt", "texts", {"format": "txt"}),
        ("llava", "texts.json", {}),
        ("csv", "texts.csv", {}),
    ],
)
def test_out_and_in_again(
    run: Path, tmp_path: Path, format: str, name: str, options: dict[str, Any]
) -> None:
    result = export(run, tmp_path / name, format)
    assert (result.rows, sum(result.left_out.values())) == (len(HOSTILE), 2)
    assert bring_in(tmp_path, tmp_path / name, **options) == list_expected()


def test_the_csv_is_what_pandas_and_the_standard_library_read(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "x.csv", "csv", images=tmp_path / "i")
    content = (tmp_path / "x.csv").read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [row["title"] for row in rows] == HOSTILE
    assert all(Path(row["filepath"]).is_file() for row in rows)


def test_a_text_that_looks_like_rows_comes_back_or_is_refused(tmp_path: Path) -> None:
    """In CSV nobody can tell it from a quotation mark that was left open."""
    (name,) = write_images(tmp_path / "i", 1)
    texts = {name: "One\n0001.png,two"}
    run = write_finished(tmp_path / "run", tmp_path / "i", texts, captions=None)
    export(run, tmp_path / "x.csv", "csv")
    with pytest.raises(UserError, match="quotation mark"):
        bring_in(tmp_path, tmp_path / "x.csv")
    export(run, tmp_path / "x", "txt")
    assert bring_in(tmp_path, tmp_path / "x", format="txt") == texts


@pytest.mark.parametrize("captions", [None, ("A person's.",)])
@pytest.mark.parametrize(
    ("format", "source"),
    [("webdataset", "{}/*.tar"), ("parquet", "{}/*.parquet"), ("parquet", "hf:{}")],
)
def test_images_of_an_export_keep_their_human_captions_alone(
    tmp_path: Path, format: str, source: str, captions: tuple[str, ...] | None
) -> None:
    names = write_images(tmp_path / "i", 2)
    texts: dict[str, str | None] = dict.fromkeys(names, "The model's.")
    run = write_finished(tmp_path / "run", tmp_path / "i", texts, captions=captions)
    export(run, tmp_path / "x", format, embed_images=format == "parquet")
    _, listing = list_images(source.format(tmp_path / "x"))
    assert [record.captions for record in listing.records] == [captions] * 2


@pytest.mark.parametrize("format", ["txt", "llava", "csv"])
def test_two_images_of_one_name_are_not_one(tmp_path: Path, format: str) -> None:
    """Rows of a table have ids, and often the same path."""
    names = write_images(tmp_path / "i", 2)
    table = pa.table(
        {
            "image": [
                {"bytes": (tmp_path / "i" / name).read_bytes(), "path": "a.png"} for name in names
            ],
            "id": ["1", "2"],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    source = tmp_path / "x.parquet"
    caption(model="any", engine="scripted", images=source, out=tmp_path / "run")
    assert [row["file_name"] for row in read_rows(tmp_path / "run").to_pylist()] == ["a.png"] * 2
    with pytest.raises(UserError, match=r"a\.png"):
        export(tmp_path / "run", tmp_path / "out", format)
    assert not (tmp_path / "out").exists()
    assert export(tmp_path / "run", tmp_path / "rows", "jsonl").rows == 2


def test_words_for_no_value_are_texts_in_csv(tmp_path: Path) -> None:
    """Also where nothing is quoted; a row of an error stays one, and an id `nan` is none."""
    write_images(tmp_path / "i", 1)
    rows = [
        ("a.png", "None", "ok", ""),
        ("b.png", "NaN", "decode_error", "nan"),
        ("c.png", "None", "", ""),
    ]
    lines = ["file_name,caption,status,image_id", *map(",".join, rows)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    assert bring_in(tmp_path, tmp_path / "x.csv") == {"a.png": "None", "b.png": None, "c.png": None}
    rows = read_rows(tmp_path / "again").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "decode_error", "engine_error"]
    assert [row["image_id"] for row in rows] == [None] * 3
    shutil.rmtree(tmp_path / "again")
    # As our own export for open_clip.
    (tmp_path / "x.csv").write_text("filepath,title\na.png,None\n")
    assert bring_in(tmp_path, tmp_path / "x.csv") == {"a.png": "None"}


def test_a_title_is_only_the_text_if_there_is_no_other(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 1)
    (tmp_path / "x.csv").write_text("file_name,title,description\na.png,A title,A text.\n")
    assert bring_in(tmp_path, tmp_path / "x.csv") == {"a.png": "A text."}


def test_texts_beside_images_in_linked_folders(tmp_path: Path) -> None:
    """As `d2s caption` finds the images: each real folder once, though a link leads up again."""
    (name,) = write_images(tmp_path / "elsewhere", 1)
    write_images(tmp_path / "i", 1)
    for folder in ("i", "elsewhere"):
        (tmp_path / folder / name).with_suffix(".txt").write_text(f"In {folder}.")
    (tmp_path / "i" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "i")
    found = bring_in(tmp_path, tmp_path / "i", format="txt")
    assert found == {name: "In i.", f"more/{name}": "In elsewhere."}


def test_pairs_are_of_people_and_the_model(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "x.jsonl", "pairs")
    pairs = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert pairs == [{"anchor": 'a "short" one', "positive": text} for text in HOSTILE]


def test_pairs_without_people_are_refused(tmp_path: Path) -> None:
    (name,) = write_images(tmp_path / "i", 1)
    run = write_finished(tmp_path / "run", tmp_path / "i", {name: "A door."}, captions=None)
    with pytest.raises(UserError, match="no human captions"):
        export(run, tmp_path / "x.jsonl", "pairs")
    assert not (tmp_path / "x.jsonl").exists()


def test_one_text_file_is_not_of_two_images(tmp_path: Path) -> None:
    (name,) = write_images(tmp_path / "i", 1)
    (tmp_path / "i" / "0000.JPG").write_bytes((tmp_path / "i" / name).read_bytes())
    texts = {name: "One.", "0000.JPG": "Two."}
    run = write_finished(tmp_path / "run", tmp_path / "i", texts, captions=None)
    with pytest.raises(UserError, match=r"would share 0000\.txt"):
        export(run, tmp_path / "texts", "txt")
    assert not (tmp_path / "texts").exists()
    (tmp_path / "i" / "0000.txt").write_text("Whose?")
    with pytest.raises(UserError, match="could be of"):
        bring_in(tmp_path, tmp_path / "i", format="txt")


def test_what_a_text_file_cannot_tell_from_its_own_is_counted(tmp_path: Path) -> None:
    """A mark before the text, ends of line behind it: not in .txt, and said; in the others kept."""
    names = write_images(tmp_path / "i", 4)
    said = ["\ufeffOne.", "Two.\n", "Three.\r\n\n", " Four. "]
    texts = dict(zip(names, said, strict=True))
    run = write_finished(tmp_path / "run", tmp_path / "i", texts, captions=None)
    result = export(run, tmp_path / "texts", "txt")
    assert len(result.notes) == 1 and result.notes[0].startswith("3 texts")
    found = bring_in(tmp_path, tmp_path / "texts", format="txt")
    assert list(found.values()) == ["One.", "Two.", "Three.", " Four. "]
    for format, name in (("llava", "x.json"), ("csv", "x.csv")):
        assert export(run, tmp_path / name, format).notes == ()
        shutil.rmtree(tmp_path / "again")
        assert bring_in(tmp_path, tmp_path / name) == texts


def test_texts_beside_their_images(tmp_path: Path) -> None:
    """As trainers of image models keep them: a stray text is counted, an empty one stays empty."""
    names = write_images(tmp_path / "i", 3)
    for name, text in zip(names, ["One.\r\n", "", "Three."], strict=True):
        (tmp_path / "i" / name).with_suffix(".txt").write_bytes(text.encode())
    (tmp_path / "i" / "0002.txt").rename(tmp_path / "i" / "0002.TXT")
    (tmp_path / "i" / "README.txt").write_text("not of an image")
    for name in ("._0000.png", "._0000.txt"):
        (tmp_path / "i" / name).write_bytes(b"\x00\x05\x16\x07\xff")
    prepared = prepare_import(ImportOptions(str(tmp_path / "i"), format="txt", model_name="m"))
    assert any("1 .txt files have no image" in note for note in prepared.notes)
    found = bring_in(tmp_path, tmp_path / "i", format="txt")
    assert list(found.values()) == ["One.", "", "Three."]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="has an image with the same name"):
        prepare_import(ImportOptions(str(tmp_path / "none"), format="txt"))


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        # Recap-DataComp-1B, PixelProse, DreamLIP: which columns they have.
        ({"url": 0, "re_caption": 1, "org_caption": 2, "key": 3}, {}),
        ({"uid": 3, "url": 0, "original_caption": 2, "vlm_model": 4, "vlm_caption": 1}, {}),
        (
            {"Image Path": 0, "raw_caption": 2, "longIB_captions": 4, "longLLA_captions": 1},
            {"columns": TextColumns(text="longLLA_captions")},
        ),
    ],
)
def test_data_sets_of_addresses(
    tmp_path: Path, columns: dict[str, int], options: dict[str, Any]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = [
        [f"https://a.example//{n}.jpg?x=1" for n in range(len(HOSTILE))],
        HOSTILE,
        ["alt"] * len(HOSTILE),
        [f"k{n}" for n in range(len(HOSTILE))],
        ["gemini"] * len(HOSTILE),
    ]
    table = pa.table({name: values[place] for name, place in columns.items()})
    pq.write_table(table, tmp_path / "x.parquet")
    prepared = prepare_import(
        ImportOptions(
            str(tmp_path / "x.parquet"), out=tmp_path / "again", model_name="m", **options
        )
    )
    write_import(prepared)
    rows = read_rows(tmp_path / "again").to_pylist()
    assert [row["caption"] for row in rows] == HOSTILE
    assert {row["image_url"] for row in rows} == set(values[0])
    # Each is the image that `d2s caption` makes of that address in a list.
    assert [row["file_name"] for row in rows] == values[0]
    assert rows[0]["captions"] == ["alt"]


def test_a_prompt_that_differs_by_image_is_no_question(run: Path, tmp_path: Path) -> None:
    """The words of a named text's prompt are a template; those of a plain run are as they are."""
    record = json.loads((run / "run.json").read_text())

    def ask(prompt: str, text: dict[str, Any] | None) -> tuple[str, int]:
        record["settings"] |= {"prompt": prompt, "text": text}
        (run / "run.json").write_text(json.dumps(record))
        result = export(run, tmp_path / "x.json", "llava", overwrite=True)
        first = json.loads(result.out.read_text())[0]
        return first["conversations"][0]["value"], len(result.notes)

    named = {"name": "short", "samples": 1}
    assert ask("In short: {texts.dense}", named) == ("<image>", 1)
    assert ask("As {{json}}.", named) == ("<image>\nAs {json}.", 0)
    assert ask("As {{json}}.", None) == ("<image>\nAs {{json}}.", 0)
