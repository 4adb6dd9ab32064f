"""`d2s review` as a user types it: what it says and writes, bad input item by item."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.pipelines.captioned import (
    DENSE_TEXT,
    error_row,
    review,
    text_row,
    write_photo,
    write_run,
)
from tests.pipelines.pages.review.shown import Page


def test_an_unfinished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photo(tmp_path / "a.jpg")
    write_run(tmp_path / "run", [text_row("a.jpg", DENSE_TEXT)], images=tmp_path, missing=4)
    assert review(tmp_path / "run") == 0
    note = "1 of 5 rows are in shards"
    assert note in capsys.readouterr().err
    assert note in Page(tmp_path / "run" / "review.html").said


def test_a_run_of_errors_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [error_row("a.jpg", "gone")], images=tmp_path)
    assert review(tmp_path / "run", "--png", tmp_path / "sheet.png") == 0
    page = Page(tmp_path / "run" / "review.html")
    assert page.names() == ["a.jpg"] and "Words of a text" not in page.said
    assert Image.open(tmp_path / "sheet.png").size[0] > 0


def test_a_run_json_that_says_little(run: Path) -> None:
    odd = {
        "complete": True,
        "shards": 1,
        "settings": [1],
        "engine": "x",
        "sessions": {"seconds": 0},
    }
    (run / "run.json").write_text(json.dumps(odd))
    assert review(run) == 0
    page = Page(run / "review.html")
    assert "by an unnamed model" in page.said and len(page.rows) == 6


def break_nothing(run: Path) -> None:
    pass


def remove_receipts(run: Path) -> None:
    (run / "receipts.jsonl").unlink()


def remove_run(run: Path) -> None:
    (run / "run.json").unlink()


def damage_run(run: Path) -> None:
    (run / "run.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "options", "message"),
    [
        (remove_run, [], "is not the folder of a captioning run"),
        (damage_run, [], "run.json is damaged"),
        (break_nothing, ["--images", "nowhere"], "image folder nowhere does not exist"),
        (break_nothing, ["--out", "/proc/no/page.html"], "/proc/no: "),
        (break_nothing, ["--png", "/proc/no/sheet.png"], "/proc/no: "),
    ],
)
def test_errors_are_one_line(
    run: Path,
    harm: Callable[[Path], None],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harm(run)
    assert review(run, *options) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1 and message in errors[0]


def test_nothing_to_see_yet(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remove_receipts(run)
    assert review(run) == 1
    assert "no shard of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [["--limit", "0"], ["--sort", "size"], ["--out", "x.html", "--png", "./x.html"], ["--no"]],
)
def test_usage(run: Path, wrong: list[str]) -> None:
    assert review(run, *wrong) == 2
    assert not Path("x.html").exists()


def test_json_and_dry_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert review(run, "--dry-run") == 0
    assert "would write dense/photos/review.html: 6 of 6 rows" in capsys.readouterr().out
    assert not (run / "review.html").exists()
    assert review(run, "--json", "--out", "new/page.html", "--png", "new/sheet.png") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["shown"], result["errors"]) == (6, 6, 2)
    assert (result["pictures"], result["without_picture"]) == (3, 1)
    assert result["flags"] == {"loop": 1, "truncated": 1}
    assert result["page_bytes"] == Path("new/page.html").stat().st_size
    assert result["png_rows"] == 6 and Path("new/sheet.png").is_file()
