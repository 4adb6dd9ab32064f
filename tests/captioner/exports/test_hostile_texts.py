"""Every format out and in again, with texts that somebody meant ill or no editor can show."""

import json
import re
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, settings

from captioner.exports.run import ExportOptions, prepare_export, write_export
from captioner.imports.run import ImportOptions, prepare_import, write_import
from data.dense.shards import read_rows
from data.errors import UserError
from data.files.text_files import replace_halves
from tests.captioner.finished_run import write_finished
from tests.captioner.images import write_images
from tests.properties import given, st

PIECES = (
    *("\n", "\r", "\r\n", "\t", '"', "'", "\\", ",", ";", "|", "#", "=", "{", "}", "[1]", "null"),
    *("\0", "\x07", "\x1b[31m", "\x1c", "\x85", "\u2028", "\u202e", "\u200f", "\ufeff", "\ufffd"),
    *("\u0301", "\U0001f600", "\u05d7\u05ea", "<image>", "</s>", "0001.png,a dog", "NaN", " ", "a"),
)
TEXT = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.sampled_from(PIECES).map(lambda piece: f"A dog{piece}" * 3000),
).filter(lambda text: text.strip() != "")
TEXTS = st.lists(TEXT, min_size=1, max_size=6)
# Each is a case that was thought of; the others are drawn.
NASTY = [
    "# no comment",
    "None",
    "\ufeffa mark",
    "ends\n",
    "\na\r",
    'a "',
    "x" * 70_000,
    "a\0b",
    "-1",
]
_LIKE_A_ROW = re.compile(r"\n[^\n,;|\t]*0001\.png,a dog")
FEW = settings(max_examples=12)


def go_round(folder: Path, texts: list[str], kind: str, name: str, **options: Any) -> list[str]:
    """The texts as they are after an export and an import."""
    names = write_images(folder / "i", len(texts))
    run = write_finished(folder / "run", folder / "i", dict(zip(names, texts, strict=True)))
    ids = folder / "ids.txt"
    ids.write_text("".join(f"{number}\n" for number in range(len(texts))))
    mapping = folder / "id_mapping.json"
    mapping.write_text(json.dumps({str(number): name for number, name in enumerate(names)}))
    named: dict[str, Any] = {}
    if kind == "d2s-jsonl":
        named = {"ids": ids, "id_mapping": mapping}
    out = folder / name
    write_export(prepare_export(run, ExportOptions(format=kind, out=out, **named)))
    if kind == "parquet":
        (out,) = out.iterdir()
    asked = ImportOptions(
        str(out), out=folder / "again", images=folder / "i", model_name="m", **options, **named
    )
    write_import(prepare_import(asked))
    return [row["caption"] for row in read_rows(folder / "again").to_pylist()]


@pytest.mark.parametrize(
    ("format", "name"),
    [("jsonl", "x.jsonl"), ("parquet", "x"), ("d2s-jsonl", "x.jsonl"), ("llava", "x.json")],
)
@FEW
@given(texts=TEXTS)
@example(texts=NASTY)
def test_what_json_and_parquet_hold_stays_as_it_is(
    format: str, name: str, texts: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert go_round(Path(folder), texts, format, name) == texts


@FEW
@given(texts=TEXTS)
@example(texts=NASTY)
def test_a_csv_gives_the_same_or_is_refused(texts: list[str]) -> None:
    """A zero byte is no text; a line that looks like a row may be one after an open quote."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            assert go_round(Path(folder), texts, "csv", "x.csv") == texts
        except UserError as error:
            assert "\n" not in str(error)
            assert any("\0" in text or _LIKE_A_ROW.search(text) for text in texts)


@FEW
@given(texts=TEXTS)
@example(texts=NASTY)
def test_a_text_file_loses_no_more_than_is_told(texts: list[str]) -> None:
    """A mark at the beginning and ends of line at the end are those of editors."""
    with tempfile.TemporaryDirectory() as folder:
        kept = [text.removeprefix("\ufeff").rstrip("\r\n") for text in texts]
        try:
            assert go_round(Path(folder), texts, "txt", "x", format="txt") == kept
        except UserError as error:
            assert "zero byte" in str(error) and any("\0" in text for text in texts)


@FEW
@given(texts=TEXTS)
@example(texts=NASTY)
def test_tar_files_hold_the_bytes(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = write_images(folder / "i", len(texts))
        run = write_finished(folder / "run", folder / "i", dict(zip(names, texts, strict=True)))
        options = ExportOptions(format="webdataset", out=folder / "x", images=folder / "i")
        write_export(prepare_export(run, options))
        with tarfile.open(folder / "x" / "000000.tar") as tar:
            found = {entry.name: tar.extractfile(entry) for entry in tar}
            held = [file.read() for name, file in found.items() if file and name.endswith(".txt")]
        assert sorted(held) == sorted(text.encode() for text in texts)


@FEW
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=6))
@example(texts=["\ud800", "a\udfffb", "\ud83d\ude00"])
def test_half_of_a_character_becomes_a_question_mark(texts: list[str]) -> None:
    """JSON can hold one, and no file of ours."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = write_images(folder / "i", len(texts))
        rows = [{"file_name": n, "caption": t} for n, t in zip(names, texts, strict=True)]
        (folder / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        options = ImportOptions(str(folder / "x.jsonl"), out=folder / "again", model_name="m")
        write_import(prepare_import(options))
        kept = [replace_halves(json.loads(json.dumps(text))) for text in texts]
        assert [row["caption"] for row in read_rows(folder / "again").to_pylist()] == kept
