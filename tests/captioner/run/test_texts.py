"""Several texts of each image with the scripted engine: order, what reads what, changes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from captioner.engine import scripted
from captioner.engine.protocol import Request
from captioner.engine.scripted import ScriptedEngine
from captioner.engine.supervised import SupervisedEngine
from captioner.engine.watchdog import Watchdog
from captioner.run.session import run_texts
from captioner.settings.texts import prepare_texts
from captioner.store.verification import verify_run
from data.dense.run import read_run
from data.dense.schema import CAPTION_SCHEMA
from data.errors import UserError
from tests.captioner.images import write_images
from tests.captioner.run.test_session import shard_bytes
from tests.captioner.run.texts import (
    THREE,
    Recorder,
    all_bytes,
    configure,
    read_rows,
    run_many,
    start_with,
)


def test_each_text_is_a_run_of_its_own(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 25)
    result = run_many(tmp_path, THREE)
    assert result.complete and (result.rows, result.ok, result.generated) == (100, 100, 100)
    assert list(result.texts) == ["dense", "condensed", "kind"]
    for name, count in (("dense", 25), ("condensed", 50), ("kind", 25)):
        found = verify_run(tmp_path / "out" / name)
        assert found.ok and (found.rows, found.planned) == (count, count), found.problems
        assert read_run(tmp_path / "out" / name)["settings"]["text"]["name"] == name
    dense = read_rows(tmp_path / "out" / "dense")
    assert [row["file_name"] for row in dense] == names and dense[0].keys() == {
        *CAPTION_SCHEMA.names
    }
    samples = read_rows(tmp_path / "out" / "condensed")
    assert [row["file_name"] for row in samples] == [name for name in names for _ in (0, 1)]
    assert [row["sample"] for row in samples[:3]] == [0, 1, 0]
    assert {row["text_name"] for row in samples} == {"condensed"}
    assert (
        len({row["caption"] for row in samples}) == 50 and len({r["seed"] for r in samples}) == 50
    )
    assert {row["caption"] for row in read_rows(tmp_path / "out" / "kind")} == {"photo", "drawing"}
    again = run_many(tmp_path, THREE)
    assert again.generated == 0 and again.complete


def test_an_image_is_decoded_once_and_texts_are_read_where_they_are_known(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 12)
    log: list[Any] = []
    prepared = prepare_texts(configure(tmp_path, THREE))
    run_texts(start_with(prepared, lambda: Recorder(log)))
    requests = {request.key: request for request in log if isinstance(request, Request)}
    dense = {row["sample_id"]: row["caption"] for row in read_rows(tmp_path / "out" / "dense")}
    short = read_rows(tmp_path / "out" / "condensed")
    for name, text in dense.items():
        image = requests[f"dense.{name}"].image
        for sample in (0, 1):
            asked = requests[f"condensed.{name}.{sample}"]
            assert asked.image is image and asked.ask is not None
            assert asked.ask.prompt.text == f"In one sentence: {text}"
            assert asked.ask.sampling.temperature == 0.7
        kind = requests[f"kind.{name}"]
        first = next(row for row in short if row["sample_id"] == name)
        assert kind.image is image and kind.ask is not None
        assert kind.ask.prompt.text == f"Of {first['file_name']}: {first['caption']}"
    assert log.count("start") == 1 and len(requests) == 48


def test_models_come_one_after_another(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 12)
    texts = {**THREE, "dense": {"prompt": "Describe it.", "model": "first"}}
    log: list[Any] = []
    run_texts(start_with(prepare_texts(configure(tmp_path, texts)), lambda: Recorder(log)))
    order = [entry if isinstance(entry, str) else entry.key.split(".")[0] for entry in log]
    assert [word for word in order if word in ("start", "close")] == ["start", "close"] * 2
    assert {*order[: order.index("close")]} == {"start", "dense"}
    assert read_run(tmp_path / "out" / "dense")["model"] == "first"
    assert read_run(tmp_path / "out" / "kind")["model"] == "any"


def test_a_changed_prompt_redoes_that_text_and_what_reads_it(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 12)
    run_many(tmp_path, THREE)
    before = all_bytes(tmp_path / "out")
    changed = {**THREE, "condensed": {**THREE["condensed"], "prompt": "Short: {texts.dense}"}}
    with pytest.raises(UserError, match="condensed, kind .*--redo"):
        run_many(tmp_path, changed)
    assert all_bytes(tmp_path / "out") == before
    result = run_many(tmp_path, changed, redo=True)
    assert result.complete and result.generated == 24 + 12
    after = all_bytes(tmp_path / "out")
    assert [name for name in before if after[name] != before[name]] == ["condensed", "kind"]
    kept = {
        path.name.split("-")[0]: shard_bytes(path) for path in (tmp_path / "out/replaced").iterdir()
    }
    assert kept == {name: before[name] for name in ("condensed", "kind")}
    # What was kept with these very settings comes back.
    assert run_many(tmp_path, THREE, redo=True).generated == 0
    assert all_bytes(tmp_path / "out") == before


def test_a_text_more_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 12)
    run_many(tmp_path, {"dense": THREE["dense"]})
    before = all_bytes(tmp_path / "out")
    write_images(tmp_path / "i", 15)
    result = run_many(tmp_path, THREE)
    # Of the images that the others have.
    assert result.generated == 24 + 12 and result.new_images == 3
    assert all_bytes(tmp_path / "out")["dense"] == before["dense"]


@pytest.mark.parametrize("killed", [False, True])
def test_images_are_appended_to_all_texts(tmp_path: Path, killed: bool) -> None:
    write_images(tmp_path / "i", 12)
    run_many(tmp_path, THREE)
    before = all_bytes(tmp_path / "out")
    write_images(tmp_path / "i", 17)
    if killed:
        # After the plan of the first had grown.
        config = configure(tmp_path, THREE, append=True)
        grown = prepare_texts(config)
        alone = replace(grown, names=("dense",), passes=(grown.passes[0][:1],))
        run_texts(alone, stop=lambda: True)
    result = run_many(tmp_path, THREE, append=not killed)
    assert result.complete and result.generated == 4 * 5
    after = all_bytes(tmp_path / "out")
    for name, files in before.items():
        shards = {file for file in files if file.startswith("train")}
        assert {file: after[name][file] for file in shards} == {f: files[f] for f in shards}
        assert verify_run(tmp_path / "out" / name).ok


def test_what_reads_a_failed_text_is_an_error_with_its_reason(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 20)
    prepared = prepare_texts(configure(tmp_path, THREE))
    lost = [f"dense.{prepared.passes[0][0].plan.records[n].sample_id}" for n in (3, 15)]
    faults = {lost[0]: "fail", lost[1]: "silence"}
    result = run_texts(start_with(prepared, lambda: ScriptedEngine(faults=faults)))
    assert result.texts["dense"].errors == 1 and result.texts["dense"].flags["empty"] == 1
    assert (result.texts["condensed"].errors, result.texts["kind"].errors) == (4, 2)
    rows = read_rows(tmp_path / "out" / "kind")
    assert "texts.condensed is not asked: texts.dense is scripted to fail" in rows[3]["error"]
    assert "texts.dense is empty" in rows[15]["error"]
    whole = run_many(tmp_path, THREE, out=tmp_path / "whole")
    again = run_many(tmp_path, THREE, retry_errors=True)
    # An empty text is no error, and stays.
    assert whole.ok == 80 and again.errors == 3
    assert rows[3] != read_rows(tmp_path / "out" / "kind")[3]
    assert (
        read_rows(tmp_path / "out/kind")[3]["caption"]
        == read_rows(tmp_path / "whole/kind")[3]["caption"]
    )


def test_columns_that_an_image_lacks_make_an_error_and_no_empty_prompt(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 4)
    images = [
        {"filename": n, "imgid": k, "split": "train", "sentences": []} for k, n in enumerate(names)
    ]
    images[0]["sentences"] = [{"raw": "A red wall."}, {"raw": "It is red."}]
    (tmp_path / "dataset_x.json").write_text(json.dumps({"images": images}))
    log: list[Any] = []
    config = configure(
        tmp_path,
        {"a": "Correct: {captions}", "b": "{{as it is}}"},
        captions=tmp_path / "dataset_x.json",
    )
    result = run_texts(start_with(prepare_texts(config), lambda: Recorder(log)))
    asked = {
        request.ask.prompt.text for request in log if isinstance(request, Request) and request.ask
    }
    assert asked == {"Correct: A red wall.\nIt is red.", "{as it is}"}
    assert (result.texts["a"].errors, result.texts["b"].errors) == (3, 0)
    assert read_rows(tmp_path / "out" / "a")[1]["error"] == "not asked: the image has no captions"


def test_an_answer_of_a_schema_is_a_typed_column(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 12)
    said = {
        "type": "object",
        "properties": {
            "count": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
    }
    texts = {"facts": {"prompt": "What is there?", "schema": said}, "more": "And {texts.facts}?"}
    result = run_many(tmp_path, texts)
    assert result.complete and result.errors == 0 and not result.texts["facts"].flags
    rows = read_rows(tmp_path / "out" / "facts")
    assert all(row["answer"] == json.loads(row["caption"]) for row in rows)
    assert (
        pq.read_schema(next((tmp_path / "out/facts").glob("train-*")))
        .field("answer")
        .type.num_fields
        == 2
    )
    assert verify_run(tmp_path / "out" / "facts").ok


def test_a_number_can_be_an_integer_that_no_float_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "i", 2)
    number = {"type": "number"}
    sides = {"type": "array", "items": number}
    said = {"type": "object", "properties": {"area": number, "sides": sides}}
    found = {"area": 2**53 + 1, "sides": [-(2**60) - 1, 1]}
    monkeypatch.setattr(scripted, "_answer", lambda schema, draw: found)
    result = run_many(tmp_path, {"facts": {"prompt": "How large?", "schema": said}})
    assert result.complete and result.errors == 0
    row = read_rows(tmp_path / "out" / "facts")[0]
    assert row["answer"] == {"area": float(2**53 + 1), "sides": [float(-(2**60) - 1), 1.0]}
    assert json.loads(row["caption"]) == found


def test_answers_that_are_not_as_asked_are_told_of(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 20)
    texts = {"dense": "Describe it.", "kind": {"prompt": "Which?", "choices": ["a", "b"]}}
    prepared = prepare_texts(configure(tmp_path, texts))
    ids = [record.sample_id for record in prepared.passes[0][0].plan.records]
    faults = {f"kind.{name}": "other" for name in ids}
    with pytest.raises(UserError, match="first 16 images.*choices"):
        run_texts(start_with(prepared, lambda: ScriptedEngine(faults=faults)))
    few = {f"kind.{name}": "other" for name in ids[:3]}
    result = run_texts(
        start_with(prepare_texts(configure(tmp_path, texts)), lambda: ScriptedEngine(faults=few))
    )
    assert result.texts["kind"].errors == 3 and result.texts["dense"].ok == 20


def test_a_stop_is_heard_while_the_second_model_starts(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 12)
    texts = {name: {"prompt": "Describe it.", "model": name} for name in ("one", "two")}
    prepared = prepare_texts(configure(tmp_path, texts))
    description = {"engine": "scripted", "start_after": str(tmp_path / "never")}
    (first,), (second,) = prepared.passes
    choice = replace(
        second.choice, start=lambda say: SupervisedEngine(description, watch=Watchdog())
    )
    events: list[str] = []
    result = run_texts(
        replace(prepared, passes=((first,), (replace(second, choice=choice),))),
        stop=lambda: any("with two" in line for line in events),
        on_event=events.append,
    )
    assert result.interrupted
    assert (result.texts["one"].ok, result.texts["two"].done) == (12, 0)
    assert run_many(tmp_path, texts).complete
