"""`d2s caption --prompts` as a user types it; files of prompts that cannot be kept, one by one."""

import json
from pathlib import Path

import pytest

from captioner.settings.prompts import TEXTS_NAME
from pipelines import cli
from tests.captioner.chat_server import ChatServer
from tests.captioner.images import write_images
from tests.json_outputs import check_json

PROMPTS = """
dense: Describe this image in detail.
condensed: {prompt: "In one sentence: {texts.dense}", samples: 2}
kind: {prompt: "Photo or drawing?", choices: [photo, drawing], model: other}
"""


@pytest.fixture(autouse=True)
def _stand_among_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "i", 5)
    Path("prompts.yaml").write_text(PROMPTS)


def d2s(*arguments: str, model: tuple[str, ...] = ("--model", "any")) -> int:
    words = ["--engine", "scripted", *model, "--images", "i", "--prompts", "prompts.yaml"]
    return cli.run(["caption", *words, *arguments])


def test_what_is_said_of_several_texts(capsys: pytest.CaptureFixture[str]) -> None:
    assert d2s("--dry-run", "--json", "--price", "1") == 0
    found = json.loads(capsys.readouterr().out)
    check_json("caption", found, dry_run=True)
    assert found["texts"]["condensed"]["settings"]["text"]["samples"] == 2
    assert (found["forecast"]["tried"], found["forecast"]["remaining"]) == (20, 20)
    assert not Path("dense").exists()
    assert d2s() == 0
    said = capsys.readouterr()
    assert said.out.startswith("20 of 20 rows in dense/i: 20 ok\n") and "condensed: 10" in said.out
    assert "20 of 20 texts" in said.err and "condensed, 2 samples, reads dense" in said.err
    assert d2s("--json") == 0
    result = json.loads(capsys.readouterr().out)
    check_json("caption", result)
    assert result["texts"]["kind"]["ok"] == 5 and "texts" not in result["texts"]["kind"]
    assert Path("dense/i", TEXTS_NAME).is_file() and cli.run(["verify", "dense/i/kind"]) == 0


def test_a_changed_prompt_is_redone_when_that_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert d2s() == 0
    Path("prompts.yaml").write_text(PROMPTS.replace("In one", "In ONE"))
    assert d2s() == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "condensed" in said and "--redo" in said and "kind" not in said
    assert d2s("--redo") == 0
    assert "this session: 10 texts" in capsys.readouterr().out
    assert d2s("--redo", "--world-size", "2") == 2


def test_every_text_may_name_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert d2s(model=()) == 2
    assert "--model is missing" in capsys.readouterr().err
    Path("prompts.yaml").write_text("a: {prompt: x, model: m}\nb: {prompt: y, model: n}")
    assert d2s(model=()) == 0


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("dense: x\ndense: y", "twice"),
        ("dense: x\nDense: y", "the same name"),
        ("- dense", "mapping"),
        ("", "mapping"),
        ("dense: [x", "is not YAML"),
        ("!!python/object/apply:os.system ['touch stolen']", "is not YAML"),
        ("{}", "has no texts"),
        ("dense: ''", "has no prompt"),
        ("dense: {model: m}", "has no prompt"),
        ("dense:", "has no prompt"),
        ("../dense: x", "name of a text"),
        ("a/b: x", "name of a text"),
        ("no: x", "name of a text"),
        ("replaced: x", "name of a text"),
        ("dense: 'In {colour}'", "no column 'colour'"),
        ("dense: 'In {file_name.real}'", "no column"),
        ("dense: 'In {file_name!r}'", "braces"),
        ("dense: 'In {'", "braces"),
        ("dense: 'In {texts.other}'", "no text of that name"),
        ("a: '{texts.b}'\nb: '{texts.a}'", "cycle"),
        ("dense: 'As {texts.dense}'", "cycle"),
        ("dense: {prompt: x, samples: 0}", "samples"),
        ("dense: {prompt: x, samples: 2, temperature: 0}", "samples"),
        ("dense: {prompt: x, samples: two}", "samples"),
        ("dense: {prompt: x, temperature: 9}", "--temperature"),
        ("dense: {prompt: x, colour: red}", "unknown setting colour"),
        ("dense: {prompt: x, model: ''}", "--model is empty"),
        ("dense: {prompt: x, choices: [a]}", "choices"),
        ("dense: {prompt: x, choices: [a, '']}", "choices"),
        ("dense: {prompt: x, choices: [a, b], schema: {type: object}}", "cannot be combined"),
        ("dense: {prompt: x, choices: [a, b], trim: true}", "unknown setting trim"),
        ("dense: {prompt: x, schema: {type: string}}", "type object"),
        ("dense: {prompt: x, schema: {type: object}}", "list all of its properties"),
        (
            "dense: {prompt: x, schema: {type: object, properties: {a: {type: date}}}}",
            "must have a type",
        ),
        (
            "a: {prompt: x, schema: {type: object, properties: {a: {type: string, pattern: b}}}}",
            "'pattern', which is not supported",
        ),
        (
            "a: {prompt: x, schema: {type: object, properties: "
            "{a: {type: integer, minimum: 5, maximum: 1}}}}",
            "nothing is from 5 to 1",
        ),
        (
            "a: {prompt: x, schema: {type: object, properties: "
            "{a: {type: array, items: {type: string}, minItems: 1.5}}}}",
            "whole numbers",
        ),
        ("dense: [2024-99-99", "is not YAML"),
        ("dense: x\nb: 'Shorten: {captions}'", "'b' of --prompts reads {captions}"),
        ("b: 'Of {split}: {image_id}'", "none of the"),
    ],
)
def test_prompts_that_cannot_be_kept(
    capsys: pytest.CaptureFixture[str], prompts: str, message: str
) -> None:
    Path("prompts.yaml").write_text(prompts)
    assert d2s() in (1, 2)
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not Path("dense").exists() and not Path("stolen").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--prompt", "x"], "--prompt and --prompts"),
        (["--set", "text.prompts=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_options_that_do_not_fit_prompts(
    capsys: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    words = ["--engine", "scripted", "--model", "any", "--images", "i"]
    given = [] if "--set" in wrong else ["--prompts", "prompts.yaml"]
    assert cli.run(["caption", *words, *given, *wrong]) == 2
    assert message in capsys.readouterr().err
    assert cli.run(["caption", *words, "--redo"]) == 2


@pytest.mark.parametrize("asked", ["revision: v2", "model: tiny, revision: v2"])
def test_a_server_has_one_revision(capsys: pytest.CaptureFixture[str], asked: str) -> None:
    Path("prompts.yaml").write_text(f"a: What is there?\nb: {{prompt: And there., {asked}}}")
    with ChatServer() as server:
        words = ["--server", server.url, "--model", "tiny", "--images", "i"]
        assert cli.run(["caption", *words, "--prompts", "prompts.yaml"]) == 2
    said = capsys.readouterr().err
    assert "'b'" in said and "--revision" in said
    assert not Path("dense").exists() and not server.bodies


def test_samples_are_exported_with_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert d2s("--out", "o") == 0
    assert cli.run(["export", "o/condensed", "--format", "jsonl", "--out", "x.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()]
    assert [(row["text_name"], row["sample"]) for row in rows[:2]] == [
        ("condensed", 0),
        ("condensed", 1),
    ]
    # A file for each image would hold the last of them.
    assert cli.run(["export", "o/condensed", "--format", "txt", "--out", "x"]) == 1
    assert "2 texts per image" in capsys.readouterr().err and not Path("x").exists()


def test_one_text_is_not_opened_with_many(capsys: pytest.CaptureFixture[str]) -> None:
    one = ["caption", "--engine", "scripted", "--model", "any", "--images", "i"]
    assert cli.run([*one, "--out", "one"]) == 0 and d2s("--out", "one") == 2
    assert d2s("--out", "many") == 0 and cli.run([*one, "--out", "many"]) == 2
    said = capsys.readouterr().err
    assert "one text per image" in said and "several texts per image" in said
    assert cli.run(["verify", "one"]) == cli.run(["verify", "many/dense"]) == 0


def test_all_texts_are_verified_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert d2s("--out", "o") == 0
    capsys.readouterr()
    assert cli.run(["verify", "o", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    check_json("verify", found)
    assert found["rows"] == 20 and found["texts"]["condensed"]["rows"] == 10
    next(Path("o/kind").glob("train-*")).unlink()
    assert cli.run(["verify", "o"]) == 1
    assert "o/kind: NOT verified" in capsys.readouterr().out
