"""Where commands write: what is there stays unless it is theirs, and what fails is said at once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data.errors import UserError
from pipelines.cli import run
from pipelines.console.outputs import Output, check_writable
from tests.documents import list_commands
from tests.pipelines.captioned import review, write_example

# Options that name what is written, besides folders of runs that their commands look into.
WRITES = {"out", "png", "html", "ranks", "failures", "docs", "script", "to_dir"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A captioning run in `run`, beside its photos."""
    monkeypatch.chdir(tmp_path)
    write_example(tmp_path).rename(tmp_path / "run")
    return tmp_path


def test_every_option_that_writes_has_the_guard() -> None:
    bare = [
        f"{words} --{option.name}"
        for words, command in list_commands().items()
        for option in command.params
        if option.name in WRITES and not isinstance(option.type, Output)
    ]
    assert bare == []


@pytest.mark.parametrize("option", ["--out", "--png"])
def test_a_file_of_others_is_replaced_only_on_request(
    folder: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = folder / "mine.png"
    Image.new("RGB", (4, 4)).save(photo)
    before = photo.read_bytes()
    assert review("run", option, photo) == 1
    assert "--overwrite" in capsys.readouterr().err and photo.read_bytes() == before
    # Wherever it is typed.
    assert review("run", option, photo, "--overwrite") == 0
    assert photo.read_bytes() != before
    # It is the command's own now.
    assert review("run", option, photo) == 0


@pytest.mark.parametrize("name", ["run.json", "plan.parquet", "train-00000-of-00001.parquet"])
def test_a_record_of_a_run_is_never_replaced(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run" / name).touch()
    before = (folder / "run" / name).read_bytes()
    assert review("run", "--out", f"run/{name}", "--overwrite") == 1
    words = ["export", "run", "--format", "jsonl", "--out", f"run/{name}", "--overwrite"]
    assert run(words) == 1
    assert capsys.readouterr().err.count("record of the run") == 2
    assert (folder / "run" / name).read_bytes() == before


def test_a_record_of_a_training_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in ("config.json", "model.safetensors", "state", "tokenizer/tokenizer.json"):
        assert run(["export-onnx", "model", "--out", str(tmp_path / name)]) in (1, 2)
    assert (tmp_path / "config.json").read_text() == "{}"


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "page.html"


def long_name(folder: Path) -> Path:
    return folder / ("x" * 300)


def half_characters(folder: Path) -> Path:
    """128 letters, of more bytes than a name may have."""
    return folder / ("ü" * 128)


@pytest.mark.parametrize("place", [below_a_file, long_name, half_characters])
def test_what_cannot_be_written_is_one_line(
    folder: Path, place: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(place(folder))
    for words in (["review", "run", "--out"], ["export", "run", "--format", "jsonl", "--out"]):
        assert run([*words, path]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 2 and "unexpected" not in said


def test_a_folder_that_may_not_be_written_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever runs the tests may be allowed everything."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    for words in (
        ["review", "run"],
        ["score", "run", "--objects", "objects.json"],
        ["train", "--stage", "1", "--out", "runs/new"],
        ["caption", "--model", "m", "--images", ".", "--out", "dense/new"],
        ["scenes"],
    ):
        assert run(words) == 1, words
        said = capsys.readouterr().err.splitlines()
        assert "read-only" in said[-1], words
    assert not (folder / "runs").exists() and not (folder / "scenes").exists()


DEMO = ["demo", "--train", "64", "--val", "1", "--test", "1"]
ABLATE = ["ablate", "--scenes", "--steps", "1", "1", "--docs", "docs"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (DEMO, "out/results.json"),
        (DEMO, "out/report.html"),
        (DEMO, "out/steps.json"),
        (ABLATE, "out/results.json"),
        (ABLATE, "out/ablation_stages.md"),
        (ABLATE, "docs/ablation_stages.md"),
        (ABLATE, "docs/ablation_stages.json"),
    ],
)
def test_what_experiments_did_not_make_is_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir()
    Path(name).write_text('{"mine": 1}')

    def refuse(*_: object, **__: object) -> None:
        raise UserError("began")

    monkeypatch.setattr("pipelines.workflow.steps.Workflow.run", refuse)
    assert run([*command, "--out", "out"]) == 1
    assert name in capsys.readouterr().err and Path(name).read_text() == '{"mine": 1}'
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    if "steps" not in name:
        # Asked for, it begins.
        assert run([*command, "--out", "out", "--overwrite"]) == 1
        assert "began" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pipe", "/dev/stdout", "/dev/null"])
def test_a_device_or_a_pipe_is_no_file_to_replace(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(UserError, match="device or a pipe"):
        check_writable(Path(name))
    assert review("run", "--out", "pipe", "--overwrite") == 1
    assert "device or a pipe" in capsys.readouterr().err and (folder / "pipe").is_fifo()
