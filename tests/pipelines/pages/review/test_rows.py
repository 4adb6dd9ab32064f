"""Which rows are looked at, in which order, and with which scores."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from pipelines.pages.review.rows import pick_rows, read_rows
from tests.pipelines.captioned import (
    DENSE_TEXT,
    error_row,
    review,
    text_row,
    write_run,
)
from tests.pipelines.pages.review.shown import Page


@pytest.mark.parametrize(
    ("flag", "names"),
    [
        ("truncated", ["cut.jpg"]),
        ("error", ["text.jpg", "huge.png"]),
        ("too_large", ["huge.png"]),
        ("ok", ["loop.jpg", "cut.jpg", "good.jpg", "gone.jpg"]),
    ],
)
def test_flag(run: Path, flag: str, names: list[str]) -> None:
    assert review(run, "--flag", flag) == 0
    page = Page(run / "review.html")
    assert page.names() == names
    assert f"{len(names)} of {len(names)} rows with {flag} (of 6 in the run)" in page.said


def test_a_flag_that_no_row_has(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert review(run, "--flag", "truncate") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "'truncate'" in said and "mean truncated?" in said
    for known in ("ok (4)", "decode_error (1)", "too_large (1)", "truncated (1)", "loop (1)"):
        assert known in said
    assert not (run / "review.html").exists()


def test_limit_and_sort(run: Path) -> None:
    orders = {
        "plan": ["good.jpg", "text.jpg", "cut.jpg"],
        "longest": ["loop.jpg", "gone.jpg", "good.jpg"],
        "shortest": ["cut.jpg", "good.jpg", "gone.jpg"],
        "repetition": ["loop.jpg", "good.jpg", "cut.jpg"],
    }
    for sort, names in orders.items():
        assert review(run, "--sort", sort, "--limit", 3) == 0
        page = Page(run / "review.html")
        assert page.names() == names
        assert "3 of 6" in page.said


def test_what_worst_means(tmp_path: Path) -> None:
    """By group, then by repetition, then by CLIPScore, then by the plan's order."""
    cases: dict[str, tuple[list[str], float, float | None]] = {
        "plain": ([], 0.1, 0.5),
        "plain, worse score": ([], 0.1, 0.4),
        "plain, no score": ([], 0.1, None),
        "plain, repeats": ([], 0.15, 0.9),
        "foreign": (["non_english"], 0.0, 0.9),
        "truncated": (["truncated", "short"], 0.0, 0.9),
        "truncated, repeats": (["truncated"], 0.3, 0.9),
        "refusal": (["short", "refusal"], 0.0, 0.9),
        "loop": (["truncated", "loop"], 0.9, 0.9),
    }
    rows = [
        text_row(name, DENSE_TEXT, flags=flags, repetition=repetition)
        for name, (flags, repetition, _) in cases.items()
    ]
    run = tmp_path / "run"
    write_run(run, [*rows, error_row("error", "gone")], images=tmp_path)
    write_scores(run, {name: score for name, (_, _, score) in cases.items()})
    known = read_rows(run)
    names = known.table.column("file_name").to_pylist()
    assert [names[position] for position in known.order("worst")] == [
        *("error", "loop", "refusal", "truncated, repeats", "truncated", "foreign"),
        *("plain, repeats", "plain, worse score", "plain", "plain, no score"),
    ]


def test_errors_do_not_crowd_out_the_texts(tmp_path: Path) -> None:
    rows = [error_row(f"{number}.jpg", "gone") for number in range(50)]
    rows += [text_row(f"text{number}.jpg", DENSE_TEXT) for number in range(9)]
    write_run(tmp_path / "run", rows, images=tmp_path)
    known = read_rows(tmp_path / "run")
    picked = pick_rows(known, range(59), sort="worst", limit=12)
    assert picked == [0, 1, 2, *range(50, 59)]
    assert pick_rows(known, range(50), sort="worst", limit=12) == list(range(12))
    assert pick_rows(known, range(59), sort="plan", limit=12) == list(range(12))


def write_scores(run: Path, scores: dict[str, float | None]) -> None:
    names = [f"id of {name}" for name in scores]
    table = pa.table({"sample_id": names, "clipscore": pa.array(scores.values(), pa.float32())})
    pq.write_table(table, run / "scores.parquet")


def test_scores_beside_the_run(run: Path) -> None:
    write_scores(run, {"gone.jpg": 0.5, "good.jpg": 0.75, "cut.jpg": None, "other.jpg": 0.1})
    assert review(run, "--sort", "score") == 0
    page = Page(run / "review.html")
    assert page.names()[:2] == ["gone.jpg", "good.jpg"]
    scores = [row["attributes"]["data-score"] for row in page.rows]
    assert scores == ["0.5", "0.75", "", "", "", ""]
    assert "CLIPScore 0.750" in page.said and "lowest CLIPScore first" in page.said
    (run / "scores.parquet").unlink()
    assert review(run) == 0
    assert "CLIPScore" not in Page(run / "review.html").said


def test_each_sample_has_its_own_score(tmp_path: Path) -> None:
    run = tmp_path / "run"
    names = ["a.jpg", "a.jpg", "b.jpg", "b.jpg"]
    write_run(run, [text_row(name, DENSE_TEXT) for name in names], images=tmp_path)
    scores = {"sample_id": [f"id of {name}" for name in names], "clipscore": [0.1, 0.2, 0.3, 0.4]}
    pq.write_table(pa.table(scores), run / "scores.parquet")
    known = read_rows(run).scores
    assert known is not None and known.tolist() == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("content", [b"not parquet", None])
def test_scores_that_cannot_be_read(
    run: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        pq.write_table(pa.table({"sample_id": ["a"]}), run / "scores.parquet")
    else:
        (run / "scores.parquet").write_bytes(content)
    assert review(run) == 1
    said = capsys.readouterr().err
    assert "scores.parquet cannot be read as scores" in said and said.count("\n") == 1


def test_a_changed_shard_is_refused(run: Path) -> None:
    with next(run.glob("train-*.parquet")).open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="has changed since it was written"):
        read_rows(run)
