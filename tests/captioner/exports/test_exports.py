"""Exports: complete, in order, readable by others, and nothing left out in silence."""

import contextlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from captioner.exports.images import name_kind
from captioner.exports.run import (
    ExportOptions,
    ExportResult,
    PreparedExport,
    prepare_export,
    write_export,
)
from captioner.exports.webdataset import make_key
from captioner.imports.run import ImportOptions, prepare_import, write_import
from captioner.run.session import caption
from data.dense.schema import CAPTION_SCHEMA
from data.dense.shards import read_rows
from data.errors import UserError
from data.files.formats import name_ending
from tests.captioner.finished_run import write_finished
from tests.captioner.images import write_images
from tests.data.sources.listing import write_tar

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "f30k_text"
NAMES = ["a.png", 'sub/b "2"\n<i>.png', "c.png", "..d.png", "e.png"]
TEXTS = [
    "A red door in a wall.",
    "Zwei \u2028 H\u00e4user\nhere.",
    None,
    "Three </script>.",
    "Four.",
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five images in shards of two, the third of which could not be read."""
    write_images(tmp_path / "i", 5)
    for number, name in enumerate(NAMES):
        (tmp_path / "i" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "i" / f"{number:04d}.png").rename(tmp_path / "i" / name)
    return write_finished(
        tmp_path / "run", tmp_path / "i", dict(zip(NAMES, TEXTS, strict=True)), captions=("h",)
    )


def write_ids(folder: Path, *ids: str, mapping: dict[str, str] | None = None) -> dict[str, Path]:
    (folder / "ids.txt").write_text("".join(f"{name}\n" for name in ids))
    if mapping is None:
        return {"ids": folder / "ids.txt"}
    (folder / "map.json").write_text(json.dumps(mapping))
    return {"ids": folder / "ids.txt", "id_mapping": folder / "map.json"}


def prepare(directory: Path, **options: Any) -> PreparedExport:
    return prepare_export(directory, ExportOptions(**options))


def export(run: Path, format: str, **options: Any) -> ExportResult:
    return write_export(prepare(run, format=format, out=run.parent / "out", **options))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_jsonl_has_every_row_and_column(run: Path) -> None:
    result = export(run, "jsonl")
    lines = read_lines(result.out)
    assert lines == read_rows(run).to_pylist()
    assert [line["file_name"] for line in lines] == NAMES
    assert lines[2]["status"] == "decode_error" and list(lines[0]) == CAPTION_SCHEMA.names
    assert (result.rows, result.files, result.left_out) == (5, 1, {})
    assert len(result.out.read_text().splitlines()) == 5


def test_only_ok_says_what_is_left_out(run: Path) -> None:
    result = export(run, "jsonl", only_ok=True)
    assert [line["file_name"] for line in read_lines(result.out)] == NAMES[:2] + NAMES[3:]
    assert (result.rows, result.left_out) == (4, {"decode_error": 1})


def test_ids_choose_and_order_the_rows(run: Path) -> None:
    lines = read_lines(export(run, "jsonl", **write_ids(run.parent, "3", "0", "2")).out)
    assert [line["file_name"] for line in lines] == [NAMES[3], NAMES[0], NAMES[2]]


def test_released_lines_in_the_order_of_the_ids(run: Path) -> None:
    ids = write_ids(run.parent, *["4"] * 5, *["1"] * 5)
    result = export(run, "d2s-jsonl", **ids)
    assert read_lines(result.out) == [
        {"text": text, "model_id": "org/llava", "metadata": {"length": len(text)}}
        for text in (TEXTS[4], TEXTS[1])
        if text
    ]
    prepared = prepare(run, format="d2s-jsonl", out=run.parent / "o", **ids)
    assert "each of its 2 ids 5 times in a row" in prepared.notes[0]


def test_released_lines_by_the_mapping_s_file_names(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 2)
    texts = {names[0]: "First one.", names[1]: "Second one."}
    run = write_finished(tmp_path / "run", tmp_path / "i", texts, ids=False)
    mapping = {"90": f"elsewhere/{names[1]}", "80": names[0]}
    found = export(run, "d2s-jsonl", **write_ids(tmp_path, "90", "80", mapping=mapping))
    assert [line["text"] for line in read_lines(found.out)] == ["Second one.", "First one."]


def test_released_lines_are_refused_if_one_is_missing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 of 3 ids have no row in .*run: 8, 9; .*--id-mapping"):
        export(run, "d2s-jsonl", **write_ids(tmp_path, "0", "8", "9"))
    with pytest.raises(UserError, match=r"1 of 2 ids have no text .*: 2 \(decode_error\); the"):
        export(run, "d2s-jsonl", **write_ids(tmp_path, "0", "2"))
    with pytest.raises(UserError, match="--ids"):
        export(run, "d2s-jsonl")
    with pytest.raises(UserError, match="--limit"):
        export(run, "d2s-jsonl", limit=1, **write_ids(tmp_path, "0", "1"))
    with pytest.raises(UserError, match="--only-ok"):
        export(run, "d2s-jsonl", only_ok=True, **write_ids(tmp_path, "0", "2", "4"))
    assert not (tmp_path / "out").exists()


def test_released_lines_refuse_an_empty_text(tmp_path: Path) -> None:
    run = write_finished(tmp_path / "run", tmp_path, {"a.png": " "})
    with pytest.raises(UserError, match=r"0 \(no text\)"):
        export(run, "d2s-jsonl", **write_ids(tmp_path, "0"))


def test_parquet_of_another_shard_size(run: Path) -> None:
    result = export(run, "parquet", shard_size=3)
    names = [f"train-0000{number}-of-00002.parquet" for number in range(2)]
    assert sorted(path.name for path in result.out.iterdir()) == names
    tables = [pq.read_table(result.out / name) for name in names]
    assert [table.num_rows for table in tables] == [3, 2]
    rows = [row for table in tables for row in table.to_pylist()]
    assert rows == read_rows(run).to_pylist()
    assert json.loads(tables[0].schema.metadata[b"d2s.run"])["model"] == "org/llava"


def test_parquet_with_images_as_the_datasets_library_reads_it(run: Path, tmp_path: Path) -> None:
    import datasets

    result = export(run, "parquet", embed_images=True)
    files = sorted(str(path) for path in result.out.iterdir())
    loaded = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert [row["file_name"] for row in loaded] == NAMES
    assert isinstance(loaded[0]["image"], Image.Image) and loaded[0]["image"].size == (32, 24)
    assert loaded[2]["image"] is None
    raw = loaded.cast_column("image", datasets.Image(decode=False))[1]["image"]
    assert raw["bytes"] == (tmp_path / "i" / NAMES[1]).read_bytes()


def test_large_images_make_small_row_groups(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (run.parent / "i" / NAMES[0]).stat().st_size
    monkeypatch.setattr("captioner.exports.parquet._BYTES_PER_GROUP", 2 * size)
    (path,) = export(run, "parquet", embed_images=True).out.iterdir()
    file = pq.ParquetFile(path)
    counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert counts[0] == 2 and sum(counts) == 5
    assert [row["file_name"] for row in file.read().to_pylist() if row["image"]] == [
        *NAMES[:2],
        *NAMES[3:],
    ]


def members(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            assert file is not None and (entry.mtime, entry.uid, entry.uname) == (0, 0, "")
            found[entry.name] = file.read()
    return found


def test_tars(run: Path, tmp_path: Path) -> None:
    result = export(run, "webdataset", shard_size=3)
    assert (result.rows, result.left_out) == (4, {"decode_error": 1})
    tars = sorted(result.out.iterdir())
    assert [path.name for path in tars] == ["000000.tar", "000001.tar"]
    first = members(tars[0])
    ids = [row["sample_id"] for row in read_rows(run).to_pylist()]
    kept = [ids[0], ids[1], ids[3]]
    assert list(first) == [f"{key}.{kind}" for key in kept for kind in ("png", "json", "txt")]
    assert first[f"{ids[1]}.txt"].decode() == TEXTS[1]
    assert first[f"{ids[1]}.png"] == (tmp_path / "i" / NAMES[1]).read_bytes()
    about = json.loads(first[f"{ids[1]}.json"])
    assert about["file_name"] == NAMES[1] and about["captions"] == ["h"]
    assert about["flags"] == "short" and about["width"] == 32 and "finish_reason" not in about
    before = [path.read_bytes() for path in tars]
    again = export(run, "webdataset", shard_size=3, overwrite=True)
    assert [path.read_bytes() for path in sorted(again.out.iterdir())] == before


def test_tars_as_the_datasets_library_reads_them(tmp_path: Path) -> None:
    """The first five samples decide the types: no flag, no id there, and both later on."""
    import datasets

    names = write_images(tmp_path / "i", 7)
    good = "A long text that says many things about a picture."
    texts = dict.fromkeys(names, good) | {names[6]: "Cut short in the middle of a longer sentence"}
    run = write_finished(tmp_path / "run", tmp_path / "i", texts, shard_size=10)
    export(run, "webdataset")
    loaded = datasets.load_dataset(
        "webdataset",
        data_dir=str(tmp_path / "out"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert [row["txt"] for row in loaded] == list(texts.values())
    assert [row["json"]["flags"] for row in loaded][5:] == ["duplicate", "truncated"]
    assert loaded[3]["png"].size == (32, 24)


def test_a_number_that_some_rows_lack_is_in_no_json(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 1)
    texts = {"0000.png": "One.", "late.png": "Two."}
    run = write_finished(tmp_path / "run", tmp_path / "i", texts)
    (tmp_path / "i" / "late.png").write_bytes((tmp_path / "i" / "0000.png").read_bytes())
    result = export(run, "webdataset")
    about = [json.loads(v) for k, v in members(result.out / "000000.tar").items() if "json" in k]
    # A text that is absent is empty, so that the column stays.
    assert [bool(row["image_sha256"]) for row in about] == [True, False]
    assert all("width" not in row and row["caption_words"] == 1 for row in about)
    assert result.notes == ("not in KEY.json, because only some rows have it: width, height",)


def test_images_of_two_kinds_are_told(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 2)
    with Image.open(tmp_path / "i" / "0001.png") as image:
        image.save(tmp_path / "i" / "0001.png", format="JPEG")
    texts = {"0000.png": "One.", "0001.png": "Two."}
    run = write_finished(tmp_path / "run", tmp_path / "i", texts)
    result = export(run, "webdataset")
    kinds = [name.split(".")[1] for name in members(result.out / "000000.tar")]
    assert kinds == ["png", "json", "txt", "jpg", "json", "txt"]
    assert "2 kinds (png 1, jpg 1)" in result.notes[0]


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_an_image_that_changed_or_went_is_left_out(run: Path, tmp_path: Path, format: str) -> None:
    """One among many is named and counted; if there is none at all, the source is another."""
    options: dict[str, Any] = {"embed_images": format == "parquet"}
    (tmp_path / "i" / NAMES[4]).write_bytes((tmp_path / "i" / NAMES[0]).read_bytes())
    (tmp_path / "i" / NAMES[0]).unlink()
    result = export(run, format, shard_size=2, **options)
    assert (
        "SHA-256 differs" in result.lost[NAMES[4]] and "no longer be used" in result.lost[NAMES[0]]
    )
    assert len(result.lost) == 2 and any("2 images are left out" in n for n in result.notes)
    kept = [NAMES[1], NAMES[3]]
    if format == "webdataset":
        found = members(result.out / "000000.tar")
        assert [json.loads(v)["file_name"] for k, v in found.items() if "json" in k] == kept
        assert (result.rows, result.files) == (2, 1)
    else:
        rows = [r for f in sorted(result.out.iterdir()) for r in pq.read_table(f).to_pylist()]
        assert [row["file_name"] for row in rows] == NAMES
        assert [row["file_name"] for row in rows if row["image"]] == kept
    (tmp_path / "i").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="--images"):
        export(run, format, overwrite=True, **options)
    assert (tmp_path / "out").exists()
    moved = tmp_path / "moved"
    assert export(run, format, images=moved, limit=2, overwrite=True, **options).files == 1
    write_images(tmp_path / "other", 5)
    for number, name in enumerate(NAMES):
        (tmp_path / "other" / f"{number:04d}.png").rename(moved / name)
        (moved / name).write_bytes((moved / NAMES[0]).read_bytes())
    with pytest.raises(UserError, match="--images"):
        export(run, format, images=moved, ids=write_ids(tmp_path, "1", "3", "4")["ids"],
               overwrite=True, **options)  # fmt: skip


def test_what_is_there_is_not_lost(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(UserError, match="exists: .*--overwrite"):
        export(run, "jsonl")
    assert out.read_text() == "mine"
    assert export(run, "jsonl", overwrite=True).rows == 5
    with pytest.raises(UserError, match="cannot be replaced by a folder"):
        export(run, "parquet", overwrite=True)
    out.unlink()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="contains notes.txt, which may not be from an export"):
        export(run, "parquet", overwrite=True)
    with pytest.raises(UserError, match="cannot be replaced by a file"):
        export(run, "jsonl", overwrite=True)
    with pytest.raises(UserError, match="run exists"):
        prepare(run, format="parquet", out=run)
    with pytest.raises(UserError, match="may not be from an export"):
        prepare(run, format="parquet", out=run, overwrite=True)
    (out / "notes.txt").unlink()
    export(run, "parquet", shard_size=2)
    assert export(run, "parquet", shard_size=5, overwrite=True).files == 1


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("format", ["parquet", "webdataset", "txt"])
def test_what_another_process_wrote_meanwhile_stays(
    run: Path, tmp_path: Path, format: str, overwrite: bool
) -> None:
    """It may be another export, which --overwrite replaces."""
    ids = write_ids(tmp_path, "0")["ids"]
    out = tmp_path / "out"
    prepared = prepare(run, format=format, out=out, ids=ids, overwrite=overwrite)
    out.mkdir()
    (out / "theirs").write_text("theirs")
    refused = pytest.raises(UserError, match="another process")
    with contextlib.nullcontext() if overwrite else refused:
        write_export(prepared)
    assert (out / "theirs").exists() is not overwrite


@pytest.mark.parametrize(
    ("format", "name"), [("parquet", "train-00000-of-00001.parquet"), ("webdataset", "000000.tar")]
)
@pytest.mark.parametrize("given", [False, True])
def test_the_images_of_the_run_are_never_replaced(
    run: Path, tmp_path: Path, format: str, name: str, given: bool
) -> None:
    """They may have been exported by d2s themselves; with `given`, they lie elsewhere now."""
    source = export(run, format, embed_images=format == "parquet").out
    result = caption(model="any", engine="scripted", images=source / name, out=tmp_path / "again")
    assert result.ok == 4
    options: dict[str, Any] = {"format": format, "overwrite": True, "out": source}
    if given:
        options |= {"out": source.rename(tmp_path / "moved"), "images": tmp_path / "moved"}
    if format == "parquet":
        options |= {"embed_images": True}
    with pytest.raises(UserError, match="images of this run are read from"):
        prepare(tmp_path / "again", **options)
    # Another run may replace it.
    assert prepare(run, **{**options, "images": None}).rows


def test_a_file_that_the_images_are_read_from_is_not_replaced(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 2)
    (tmp_path / "list.txt").write_text("".join(f"i/{name}\n" for name in names))
    caption(model="any", engine="scripted", images=tmp_path / "list.txt", out=tmp_path / "run")
    for place, word in (("list.txt", "are read from"), (f"i/{names[0]}", "name of an image")):
        with pytest.raises(UserError, match=word):
            prepare(tmp_path / "run", format="jsonl", out=tmp_path / place, overwrite=True)


def test_data_sets_of_others_have_the_same_names(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    pq.write_table(pa.table({"caption": ["x"]}), out / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match="may not be from an export"):
        export(run, "parquet", overwrite=True)
    (out / "train-00000-of-00001.parquet").unlink()
    for members in ({"1.txt": b"x"}, {"1.json": b'{"status": "success"}'}, {"1.json": b"[1]"}):
        write_tar(out / "000000.tar", members)
        with pytest.raises(UserError, match="may not be from an export"):
            export(run, "webdataset", overwrite=True)
    (out / "000000.tar").write_text("no tar")
    with pytest.raises(UserError, match="may not be from an export"):
        export(run, "webdataset", overwrite=True)


def test_folders_of_texts_are_not_replaced(run: Path, tmp_path: Path) -> None:
    """Nobody can tell whose a `.txt` file is."""
    ids = write_ids(tmp_path, "0")["ids"]
    assert export(run, "txt", ids=ids).files == 1
    with pytest.raises(UserError, match="a.txt, which may not be from an export"):
        export(run, "txt", ids=ids, overwrite=True)


def test_the_current_folder_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="current folder"):
        prepare(run, format="txt", out=Path())
    assert not list(Path().iterdir())


def test_options_that_do_not_fit(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--embed-images cannot be used with --format jsonl"):
        export(run, "jsonl", embed_images=True)
    mapping = write_ids(tmp_path, "0", mapping={"0": NAMES[0]})["id_mapping"]
    with pytest.raises(UserError, match="specify both"):
        export(run, "jsonl", id_mapping=mapping)
    with pytest.raises(UserError, match="--format must be one of"):
        export(run, "xml")


def test_limit(run: Path) -> None:
    result = export(run, "jsonl", only_ok=True, limit=3)
    assert [line["file_name"] for line in read_lines(result.out)] == [*NAMES[:2], NAMES[3]]
    assert result.rows == 3


def test_a_run_without_a_text(tmp_path: Path) -> None:
    run = write_finished(tmp_path / "run", tmp_path, {"a.png": None})
    with pytest.raises(UserError, match="no rows to export"):
        export(run, "webdataset")


def test_keys_are_safe_names() -> None:
    assert make_key("0123abcd") == "0123abcd"
    for bad in ("../../etc/passwd", "a.b", "a/b", "", "a\n", "x" * 65, "\u00e9"):
        key = make_key(bad)
        assert len(key) == 32 and key.isalnum() and key != make_key(bad + "x")


def test_kinds_by_their_bytes(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4))
    for kind, format in {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF",
                         "webp": "WEBP", "ppm": "PPM", "avif": "AVIF"}.items():  # fmt: skip
        image.save(tmp_path / "x", format=format)
        assert name_kind((tmp_path / "x").read_bytes(), file_name="x.jpg") == kind
    for options in ({"big_tiff": True}, {"save_all": True, "append_images": [image]}):
        image.save(tmp_path / "x", format="TIFF", **options)
        assert name_kind((tmp_path / "x").read_bytes(), file_name="x.jpg") == "tif"
    for content in (b"P7\nbroken", b"Pf\n1 1\n-1\n0000", b"P5 1 1 255 0"):
        decoded = name_ending(content)
        assert decoded is None or decoded == "ppm"
    with pytest.raises(UserError, match="x.jpg is not of a known kind: an SVG"):
        name_kind(b"<svg/>", file_name="x.jpg")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the Flickr30K texts are not beside the repository")
def test_the_released_flickr_file_comes_back_byte_by_byte(tmp_path: Path) -> None:
    ids, file = SHARED / "test_ids.txt", SHARED / "f30k_test.jsonl"
    mapping = SHARED / "id_mapping.json"
    run = tmp_path / "run"
    write_import(
        prepare_import(
            ImportOptions(str(file), ids=ids, id_mapping=mapping, out=run, shard_size=300)
        )
    )
    assert export(run, "d2s-jsonl", ids=ids).out.read_bytes() == file.read_bytes()
    # And through the formats between, by file name alone.
    write_export(prepare(run, format="jsonl", out=tmp_path / "rows.jsonl"))
    options = {"ids": ids, "id_mapping": mapping}
    model = read_lines(file)[0]["model_id"]
    file_options = ImportOptions(
        str(tmp_path / "rows.jsonl"), out=tmp_path / "again", model_name=model, **options
    )
    prepared = prepare_import(file_options)
    write_import(prepared)
    again = prepare(tmp_path / "again", format="d2s-jsonl", out=tmp_path / "again.jsonl", **options)
    assert write_export(again).out.read_bytes() == file.read_bytes()
