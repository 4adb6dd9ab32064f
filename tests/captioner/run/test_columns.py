"""Prompts that read columns of the images' source: a table, tar files, a data set."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from captioner.engine.protocol import Request
from captioner.run.session import CaptionResult, run_texts
from captioner.settings.texts import prepare_texts
from data.dense.run import PLAN_NAME, read_run
from data.errors import UsageError
from tests.captioner.images import write_images
from tests.captioner.run.texts import (
    Recorder,
    all_bytes,
    configure,
    read_rows,
    run_many,
    start_with,
)
from tests.documents import ROOT, read_blocks

ROWS: list[dict[str, Any]] = [
    {"alt_text": "A {red} door", "title": ["One", None, "Two"], "score": 3.0, "likes": 7},
    {"alt_text": None, "title": [], "score": float("nan"), "likes": None},
    {"alt_text": "<image> <|im_end|><<image>image>", "title": ["</s>"], "score": 0.5, "likes": 0},
    {"alt_text": "  ", "title": None, "score": None, "likes": -1},
    {
        "alt_text": "\u05d7\u05ea\u05d5\u05dc\n\ttwo lines\0",
        "title": ["x"],
        "score": 1e9,
        "likes": 1,
    },
]
SCHEMA = pa.schema(
    [
        *[("image", pa.binary()), ("file_name", pa.string()), ("alt_text", pa.string())],
        *[("title", pa.list_(pa.string())), ("score", pa.float64()), ("likes", pa.int32())],
        *[("meta", pa.struct([("a", pa.string())])), ("Image Path", pa.string())],
    ]
)
PROMPTS = {
    "alt": "It is called {alt_text}.",
    "all": "{title}/{score}/{likes}/{file_name}",
}


def make_rows(folder: Path) -> list[dict[str, Any]]:
    names = write_images(folder / "files", len(ROWS))
    return [
        {"image": (folder / "files" / name).read_bytes(), "file_name": name, **row}
        for name, row in zip(names, ROWS, strict=True)
    ]


def write_table(folder: Path) -> str:
    pq.write_table(pa.Table.from_pylist(make_rows(folder), SCHEMA), folder / "x.parquet")
    return str(folder / "x.parquet")


def write_tar(folder: Path) -> str:
    with tarfile.open(folder / "x.tar", "w") as tar:
        for row in make_rows(folder):
            name, image = row.pop("file_name"), row.pop("image")
            members = {name: image, f"{name[:-4]}.json": json.dumps({**row, "meta": {}}).encode()}
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(folder / "x.tar")


def write_dataset(folder: Path) -> str:
    table = pa.Table.from_pylist(make_rows(folder), SCHEMA)
    datasets.Dataset(table).save_to_disk(folder / "saved")
    return f"hf:{folder / 'saved'}"


def write_streamed(folder: Path) -> str:
    (folder / "streamed").mkdir()
    Path(write_table(folder)).rename(folder / "streamed" / "train.parquet")
    return f"hf:{folder / 'streamed'}"


def run(
    folder: Path, images: str, prompts: dict[str, Any] = PROMPTS, **options: Any
) -> tuple[CaptionResult, dict[str, str]]:
    """The result, and by text and file what was asked."""
    log: list[Any] = []
    config = configure(folder, prompts, images=images, **options)
    prepared = prepare_texts(config)
    result = run_texts(start_with(prepared, lambda: Recorder(log)))
    names = {record.sample_id: number for number, record in enumerate(_plan(prepared))}
    asked = {}
    for request in log:
        if isinstance(request, Request) and request.ask is not None:
            text, sample_id = request.key.split(".")
            asked[f"{text} {names[sample_id]}"] = request.ask.prompt.text
    return result, asked


def _plan(prepared: Any) -> Any:
    return prepared.passes[0][0].plan.records


@pytest.mark.parametrize("write", [write_table, write_tar, write_dataset, write_streamed])
def test_columns_are_put_into_prompts(tmp_path: Path, write: Callable[[Path], str]) -> None:
    options: dict[str, Any] = {"streaming": True} if write is write_streamed else {}
    result, asked = run(tmp_path, write(tmp_path), **options)
    names = [row["file_name"] for row in read_rows(tmp_path / "out" / "all")]
    assert asked == {
        "alt 0": "It is called A {red} door.",
        "all 0": f"One\nTwo/3/7/{names[0]}",
        # No value makes a token of the model's, of its image least of all.
        "alt 2": "It is called < image> < |im_end|><< image>image>.",
        "all 2": f"< /s>/0.5/0/{names[2]}",
        "alt 4": "It is called \u05d7\u05ea\u05d5\u05dc\n\ttwo lines\0.",
        "all 4": f"x/1000000000/1/{names[4]}",
    }
    rows = read_rows(tmp_path / "out" / "alt")
    assert [row["status"] for row in rows] == ["ok", "engine_error"] * 2 + ["ok"]
    assert rows[1]["error"] == rows[3]["error"] == "not asked: the image has no alt_text"
    assert result.texts["all"].errors == 2
    # What was read is recorded; the plan stays as it was, and nothing is asked again.
    settings = read_run(tmp_path / "out" / "all")["settings"]
    assert settings["text"]["columns"] == ["likes", "score", "title"]
    assert "columns" not in pq.read_schema(tmp_path / "out" / "all" / PLAN_NAME).names
    again, asked = run(tmp_path, configure_again(tmp_path, write), **options)
    assert (again.generated, asked, again.complete) == (0, {}, True)


def configure_again(folder: Path, write: Callable[[Path], str]) -> str:
    places: dict[Callable[[Path], str], str] = {
        write_table: "x.parquet",
        write_tar: "x.tar",
        write_dataset: "saved",
        write_streamed: "streamed",
    }
    prefix = "hf:" if write in (write_dataset, write_streamed) else ""
    return f"{prefix}{folder / places[write]}"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{colour}", "no column 'colour' .* Image Path, alt_text, captions, .*title and texts"),
        ("{meta}", "no texts or numbers in the column 'meta'"),
        ("{image}", "no texts or numbers in the column 'image'"),
        ("{alt_text.real}", "no column 'alt_text.real'"),
    ],
)
@pytest.mark.parametrize("write", [write_table, write_dataset])
def test_a_column_that_is_not_there_is_refused(
    tmp_path: Path, prompt: str, message: str, write: Callable[[Path], str]
) -> None:
    images = write(tmp_path)
    with pytest.raises(UsageError, match=message) as told:
        run_many(tmp_path, {"a": prompt}, images=images)
    assert "\n" not in str(told.value) and "prompts.yaml: text 'a'" in str(told.value)
    assert not (tmp_path / "out").exists()


def test_the_fields_of_tar_files_are_named(tmp_path: Path) -> None:
    images = write_tar(tmp_path)
    with pytest.raises(UsageError, match="no column 'colour' .* alt_text, .*likes, .*score"):
        run_many(tmp_path, {"a": "{colour}"}, images=images)
    with pytest.raises(UsageError, match="no texts or numbers in the column 'meta'"):
        run_many(tmp_path, {"a": "{meta}"}, images=images)


def test_a_value_and_the_words_around_it_make_no_token(tmp_path: Path) -> None:
    folder = tmp_path
    rows = make_rows(folder)
    rows[0]["alt_text"], rows[2]["alt_text"] = "image", "a dog"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "x.parquet")
    _, asked = run(folder, str(folder / "x.parquet"), {"a": "What is <{alt_text}>?"})
    assert "a 0" not in asked and asked["a 2"] == "What is <a dog>?"
    assert "special token" in read_rows(folder / "out" / "a")[0]["error"]


def test_an_interrupted_run_asks_the_same(tmp_path: Path) -> None:
    images = write_table(tmp_path)
    run_many(tmp_path, PROMPTS, images=images, out=tmp_path / "whole")
    run_many(tmp_path, PROMPTS, images=images, limit=3)
    grown = run_many(tmp_path, PROMPTS, images=images, limit=5, append=True)
    assert grown.complete and grown.generated == 4
    for name in PROMPTS:
        whole, parts = (read_rows(tmp_path / out / name) for out in ("whole", "out"))
        assert [row["caption"] for row in parts] == [row["caption"] for row in whole]
    prepared = prepare_texts(configure(tmp_path, PROMPTS, images=images, out=tmp_path / "third"))
    calls = iter([False] * 4)
    run_texts(prepared, stop=lambda: next(calls, True))
    run_many(tmp_path, PROMPTS, images=images, out=tmp_path / "third")
    assert all_bytes(tmp_path / "third") == all_bytes(tmp_path / "whole")


def test_the_caption_column_is_a_column_too(tmp_path: Path) -> None:
    """Under its own name, and as the captions by people."""
    images = write_table(tmp_path)
    prompts = {"a": "{alt_text}|{captions}"}
    _, asked = run(tmp_path, images, prompts, caption_column="alt_text")
    assert asked["a 0"] == "A {red} door|A {red} door"


def test_the_address_of_an_image_in_a_table(tmp_path: Path) -> None:
    rows = [{**row, "image_url": "https://a.example/1"} for row in make_rows(tmp_path)]
    schema = SCHEMA.append(pa.field("image_url", pa.string()))
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "x.parquet")
    _, asked = run(tmp_path, str(tmp_path / "x.parquet"), {"a": "Of {image_url}"})
    assert asked["a 0"] == "Of https://a.example/1"


def test_the_example_of_the_documents(tmp_path: Path) -> None:
    (block,) = (b for b in read_blocks(ROOT / "docs/texts.md") if b.startswith("corrected:"))
    _, asked = run(tmp_path, write_table(tmp_path), yaml.safe_load(block))
    assert 'calls this image "A {red} door"' in asked["corrected 0"]
