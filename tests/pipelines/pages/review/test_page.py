"""The page says what it is given, nothing in it is markup of somebody else, and it stands alone."""

import json
import re
from pathlib import Path

import pytest

from tests.pipelines.captioned import (
    DENSE_TEXT,
    HOSTILE_NAME,
    HOSTILE_TEXT,
    error_row,
    review,
    text_row,
    write_hostile,
    write_photo,
    write_run,
)
from tests.pipelines.pages.review.shown import Page


def test_rows_worst_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert review(run) == 0
    said = capsys.readouterr()
    assert re.fullmatch(r"dense/photos/review.html: 6 of 6 rows, 3 pictures, \d\d kB\n", said.out)
    page = Page(run / "review.html")
    names = ["text.jpg", "huge.png", "loop.jpg", "cut.jpg", "good.jpg", "gone.jpg"]
    assert page.names() == names
    rows = {row["name"]: row for row in page.rows}
    assert rows["good.jpg"]["text"] == DENSE_TEXT and rows["good.jpg"]["badges"] == []
    assert rows["loop.jpg"]["badges"] == ["loop"]
    assert rows["cut.jpg"]["badges"] == ["truncated", "trimmed", "second attempt"]
    assert rows["text.jpg"]["badges"] == ["decode_error"]
    assert rows["text.jpg"]["reason"] == "not an image in a known format"
    assert "text" not in rows["text.jpg"] and "picture" not in rows["text.jpg"]
    assert rows["gone.jpg"]["blank"] == "no picture: the file does not exist"
    assert rows["good.jpg"]["people"] == ["a dog", "a dog & <b>kids</b>"]
    assert rows["good.jpg"]["attributes"]["data-words"] == "17"
    assert rows["loop.jpg"]["attributes"]["data-rank"] == "2"


def test_another_image_is_not_shown(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "a.jpg")
    row = text_row("a.jpg", DENSE_TEXT, image_sha256="0" * 64)
    write_run(tmp_path / "run", [row], images=tmp_path / "photos")
    assert review(tmp_path / "run") == 0
    (shown,) = Page(tmp_path / "run/review.html").rows
    assert "captioned" in shown["blank"] and "picture" not in shown


def test_counts_and_settings_are_told(run: Path) -> None:
    assert review(run) == 0
    page = Page(run / "review.html")
    for told in ("llava-hf/llava-1.5-7b-hf", "0123abc", "Describe this image in detail."):
        assert told in page.said
    assert "temperature 0.2, top p 0.9, max tokens 512" in page.said
    assert "6 images in 2 s, 3.0 images/s" in page.said
    assert page.buttons[0] == "6 on this page, 6 in the run"
    texts = re.sub(r"\s+", " ", page.said)
    assert "6 of 6 rows, 3 with a thumbnail, worst first" in texts
    labels = ["all 6", "errors 2", "decode_error 1", "too_large 1", "loop 1", "truncated 1"]
    assert " ".join([*labels, "second attempt 1", "trimmed 1", "no flag 2"]) in texts
    assert re.search("decode_error: not an image in a known format ?1 ", texts)
    assert "median 18.5 words, from 16 to 36" in texts


def test_every_sample_is_a_planned_row(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    for samples in (1, 2):
        record |= {"planned": 3}
        record["settings"] |= {"text": {"name": "short", "samples": samples}}
        (run / "run.json").write_text(json.dumps(record))
        assert review(run) == 0
        page = Page(run / "review.html")
        assert ("of 3 planned" in page.said) == (samples == 1)
    record |= {"planned": 4}
    (run / "run.json").write_text(json.dumps(record))
    assert review(run) == 0
    assert "6 of 8 rows are in shards" in Page(run / "review.html").said


def test_filters_let_their_rows_through(run: Path) -> None:
    assert review(run) == 0
    page = Page(run / "review.html")
    through = [set(str(row["attributes"]["data-filters"]).split()) for row in page.rows]
    counts = [sum(str(number) in own for own in through) for number in range(len(page.buttons))]
    shown = [int(button.split()[0]) for button in page.buttons]
    assert counts == shown and counts[0] == 6


def test_one_kind_of_error_is_one_filter(tmp_path: Path) -> None:
    rows = [error_row("a.jpg", "gone"), error_row("b.jpg", "gone"), text_row("c.jpg", DENSE_TEXT)]
    write_run(tmp_path / "run", rows, images=tmp_path)
    assert review(tmp_path / "run") == 0
    page = Page(tmp_path / "run" / "review.html")
    assert [button.split()[0] for button in page.buttons] == ["3", "2", "1"]


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_hostile(tmp_path)


def test_markup_is_text(hostile: Path) -> None:
    assert review(hostile, "--png", "sheet.png") == 0
    page = Page(hostile / "review.html")
    assert page.tags.count("script") == 1 and page.tags.count("style") == 1
    assert page.tags.count("img") == 1 and "b" in page.tags
    rows = {str(row["attributes"]["data-plan"]): row for row in page.rows}
    assert rows["0"]["name"] == HOSTILE_NAME.replace("\n", "\\n").replace("\u202e", "\\u202e")
    assert rows["0"]["text"] == HOSTILE_TEXT and rows["0"]["people"] == [HOSTILE_TEXT]
    assert rows["0"]["badges"] == ["<script>", "a b"]
    assert rows["2"]["reason"] == HOSTILE_TEXT and rows["2"]["name"] == '"onload="pwn()'
    assert page.source.count("<!--") == 0


def test_the_page_needs_and_allows_nothing_else(hostile: Path) -> None:
    assert review(hostile) == 0
    page = Page(hostile / "review.html")
    assert page.sources and all(
        source.startswith(("data:image/jpeg;base64,", "#")) for source in page.sources
    )
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])
    assert "unsafe" not in page.policy
    assert not [name for name in page.attributes if name.startswith("on") or name == "style"]


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    for name in ("one", "two"):
        assert review(run, "--out", f"{name}.html", "--png", f"{name}.png") == 0
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
