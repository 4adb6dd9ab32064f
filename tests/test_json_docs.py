"""docs/json.md tells the keys of what commands print with --json.

Commands that take long are compared with it where they are tested (`check_json`).
"""

import json
from pathlib import Path

import pytest

from data.dense.shards import read_rows
from pipelines.cli import run
from tests.captioner.images import write_images
from tests.documents import list_commands
from tests.json_outputs import check_json, read_keys

COMMANDS = {words: command for words, command in list_commands().items()}
CAPTION = "caption --model any --engine scripted --images photos"
# What is typed for a result, and for a dry run.
TYPED = {
    "caption": (f"{CAPTION[8:]} --out new", f"{CAPTION[8:]} --out other"),
    "verify": ("run", None),
    "review": ("run --png x.png", "run"),
    "score": ("run --objects objects.json", "run --objects objects.json"),
    "export": ("run --format jsonl --out x.jsonl", "run --format jsonl --out y.jsonl"),
    "import": ("t.jsonl --out new --model-name m", "t.jsonl --out other --model-name m"),
    "publish dataset": (None, "run --license mit --repo a/b --max-flagged 1"),
    "scenes": ("--out s --train 2 --val 1 --test 1", None),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 3)
    assert run([*CAPTION.split(), "--out", "run"]) == 0
    names = read_rows(tmp_path / "run", ["file_name"]).column(0).to_pylist()
    (tmp_path / "objects.json").write_text(json.dumps({name: ["dog"] for name in names}))
    text = {"id": "1", "file_name": "a.jpg", "caption": "A dog runs over a field."}
    (tmp_path / "t.jsonl").write_text(json.dumps(text) + "\n")
    return tmp_path


def test_every_command_with_json_has_a_section() -> None:
    for words, command in COMMANDS.items():
        if any(option.name == "as_json" for option in command.params):
            read_keys(words)


@pytest.mark.parametrize("words", TYPED)
def test_the_keys_are_those_that_are_documented(
    words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for typed, more in zip(TYPED[words], ((), ("--dry-run",)), strict=True):
        if typed is not None:
            assert run([*words.split(), *typed.split(), *more, "--json"]) in (0, 3)
            check_json(words, json.loads(capsys.readouterr().out), dry_run=bool(more))
