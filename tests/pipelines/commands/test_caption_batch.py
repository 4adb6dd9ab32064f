"""`d2s caption --batch-file` as a user types it: what is said, exit codes, and what is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from data.dense.shards import read_rows
from pipelines import cli
from tests.captioner.batch_service import answer, read_requests, write_answers
from tests.captioner.chat_server import Reply


@pytest.fixture(autouse=True)
def _stand_among_five_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i").mkdir()
    for number in range(1, 6):
        Image.new("RGB", (30, 24), (0, 0, number)).save(f"i/{number}.png")


def d2s(*arguments: str) -> int:
    base = ["caption", "--model", "tiny", "--images", "i", "--aspect", "squash"]
    return cli.run([*base, *arguments])


def test_out_and_in(capsys: pytest.CaptureFixture[str]) -> None:
    batch = ["--batch-file", "r"]
    assert d2s(*batch, "--dry-run") == 0
    assert "no trial was run" in capsys.readouterr().out and not Path("r").exists()
    assert d2s(*batch) == 0
    said = capsys.readouterr().err
    assert "r/requests-00001.jsonl" in said and "without an answer: 5." in said
    lines = answer(read_requests(Path("r")), lambda n: Reply(status=400 if n == 2 else 200))
    write_answers(Path("r/a.jsonl"), lines[:-2], shuffle=1)
    # From here on, something is missing.
    assert d2s(*batch, "--json") == 3
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert (result["done"], result["complete"], result["interrupted"]) == (3, False, False)
    assert "without an answer: 2." in told.err and "requests-00002.jsonl" in told.err
    write_answers(Path("r/b.jsonl"), answer(read_requests(Path("r"), 2)))
    assert d2s(*batch) == 3
    assert "1 engine_error" in capsys.readouterr().out
    assert d2s(*batch, "--retry-errors") == 3
    assert "without an answer: 1." in capsys.readouterr().err
    write_answers(Path("r/c.jsonl"), answer(read_requests(Path("r"), 3)))
    assert d2s(*batch, "--retry-errors") == 0
    assert cli.run(["verify", "dense/i"]) == 0
    rows = read_rows(Path("dense/i")).to_pylist()
    assert [row["caption"] for row in rows] == [f"Image {n}." for n in range(1, 6)]
    # Nothing is left to ask for.
    assert d2s(*batch) == 0 and len(list(Path("r").glob("requests-*"))) == 3


def test_no_key_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-mine")
    assert d2s("--batch-file", "r") == 0
    paths = [path for folder in ("r", "dense") for path in Path(folder).rglob("*")]
    assert not any(b"secret-of-mine" in path.read_bytes() for path in paths if path.is_file())


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--batch-format", "vllm"], 2, "--batch-file"),
        (["--engine", "batch"], 2, "--batch-file"),
        (["--batch-file", "r", "--server", "http://127.0.0.1:1"], 2, "--server"),
        (["--batch-file", "r", "--engine", "vllm"], 2, "--batch-file"),
        (["--batch-file", "r", "--prompts", "p.yaml"], 2, "--prompts"),
        (["--batch-file", "r", "--world-size", "2"], 2, "--world-size"),
        (["--batch-file", "r", "--cluster", "ray"], 2, "--cluster"),
        (["--batch-file", "r", "--gpu-memory", "0.5"], 2, "--gpu-memory"),
        (["--batch-file", "r", "--server-window", "5"], 2, "--server-window"),
        (["--batch-file", "r", "--dry-run", "--trial", "5"], 2, "--trial"),
        (["--batch-file", "r", "--batch-format", "vllm"], 1, "files of tiny"),
        (["--batch-file", "i/1.png"], 2, "--batch-file"),
    ],
)
def test_refused_in_one_line(
    words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("p.yaml").write_text("dense: Describe it.\n")
    assert d2s(*words) == code
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said
    assert not Path("r").exists() and not Path("dense").exists()


def test_another_prompt_is_another_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert d2s("--batch-file", "r") == 0
    assert d2s("--batch-file", "r", "--prompt", "What is it?") == 1
    assert "prompt" in capsys.readouterr().err
    # In a folder of its own it is; both have their requests beside each other.
    other = ["--batch-file", "r", "--prompt", "What is it?", "--out", "other"]
    assert d2s(*other) == 0
    assert len(read_requests(Path("r"), 2)) == 7
    write_answers(Path("r/a.jsonl"), answer(read_requests(Path("r"))))
    assert d2s("--batch-file", "r") == 0 and d2s(*other) == 0
    assert "another run" in capsys.readouterr().err
