"""`d2s evaluate` beyond the plain table: folds, ground truth, ranks, limits, exit codes."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cli import run
from tests.json_outputs import check_json
from tests.pipelines.evaluated import read_ways, write_trained
from tests.test_imports import ROOT
from tests.vse.evaluation.test_eccv import write_truth
from vse.evaluation.ranks_file import RANKS_SCHEMA

IMAGES = [str(number) for number in range(56, 64)]  # the test split's, of 64


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(folder):
        yield write_trained(folder)


def evaluate(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert run(["evaluate", "--json", *options]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_folds(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(capsys, "--folds", "4")["folds"]
    assert (found["count"], found["px"]) == (4, 16)
    assert found["images"] == [2] * 4 and found["captions"] == [6] * 4
    for name, mean in found["mean"].items():
        values = [fold[name] for fold in found["each"]]
        assert mean == pytest.approx(np.mean(values), abs=1e-3)
        assert found["deviation"][name] == pytest.approx(np.std(values, ddof=1), abs=1e-3)
    # Two images: the second place is the last.
    assert found["mean"]["t2i_r5"] == 100.0
    assert evaluate(capsys)["folds"] is None
    assert run(["evaluate", "--folds", "9"]) == 1
    assert "8 images cannot be split into 9 folds: --folds can be 2 to 8" in capsys.readouterr().err


def test_ranks_tell_what_the_recalls_are_made_of(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(capsys, "--ranks", "pages/ranks.parquet")
    schema = pq.read_schema("pages/ranks.parquet")
    assert schema.field("rank").metadata[b"base"] == b"0"
    assert schema.metadata[b"px"] == b"16" and schema.metadata[b"split"] == b"test"
    ways = read_ways(Path("pages/ranks.parquet"))
    assert [row["query_id"] for row in ways["i2t"]] == IMAGES
    assert ways["i2t"][3]["query"] == "test/003.png"
    assert [row["query_id"] for row in ways["t2i"]][:4] == ["560", "561", "562", "570"]
    for way, rows in ways.items():
        ranks = np.array([row["rank"] for row in rows])
        for cut in (1, 5, 10):
            assert found[f"{way}_r{cut}"] == pytest.approx(100 * (ranks < cut).mean(), abs=1e-3)
        assert found[f"{way}_median_rank"] == np.median(ranks) + 1
        for row in rows:
            assert len(row["retrieved_ids"]) == (8 if way == "t2i" else 10)
            assert row["retrieved_scores"] == sorted(row["retrieved_scores"], reverse=True)
            own = [name[:2] == row["query_id"][:2] for name in row["retrieved_ids"]]
            assert own.index(True) == row["rank"] if row["rank"] < len(own) else not any(own)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Each image has its three captions and one of the next image's, and the other way round."""
    texts = {name: [f"{name}0", f"{name}1", f"{name}2"] for name in IMAGES}
    for name, following in zip(IMAGES, IMAGES[1:], strict=False):
        texts[name].append(f"{following}1")
    said = dict.fromkeys(text for own in texts.values() for text in own)
    images = {text: [name for name in IMAGES if text in texts[name]] for text in said}
    for name in ("eccv", "cxc"):
        write_truth(tmp_path, name, texts, images)
    return tmp_path


def test_ground_truth_of_one_s_own(
    trained: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(capsys, "--ground-truth", str(truth), "--ranks", "r.parquet")
    eccv, cxc = found["eccv_caption"], found["cxc"]
    assert eccv["complete"] and cxc["complete"] and (eccv["px"], cxc["px"]) == (16, 16)
    assert (eccv["i2t_queries"], eccv["i2t_answers"], eccv["t2i_answers"]) == (8, 31, 31)
    images = json.loads((truth / "eccv_caption_to_image.json").read_text())
    average, precision, first = [], [], []
    for row in read_ways(Path("r.parquet"))["t2i"]:
        right = images[row["query_id"]]
        # All images are in the list; several look the same, and then the wrong ones come first.
        pairs = zip(row["retrieved_scores"], row["retrieved_ids"], strict=True)
        ranked = sorted((-score, name in right) for score, name in pairs)
        hits = np.array([known for _, known in ranked][: len(right)])
        average.append((hits * hits.cumsum() / np.arange(1, len(hits) + 1)).mean())
        precision.append(hits.mean())
        first.append(hits[0])
    assert eccv["t2i_map_at_r"] == pytest.approx(100 * np.mean(average), abs=1e-3)
    assert eccv["t2i_r_precision"] == pytest.approx(100 * np.mean(precision), abs=1e-3)
    assert eccv["t2i_r1"] == cxc["t2i_r1"] == pytest.approx(100 * np.mean(first), abs=1e-3)
    assert cxc["rsum"] == pytest.approx(
        sum(cxc[f"{way}_r{cut}"] for way in ("i2t", "t2i") for cut in (1, 5, 10)), abs=1e-3
    )
    assert run(["evaluate", "--limit", "4", "--ground-truth", str(truth)]) == 0
    said = capsys.readouterr()
    assert said.out.count(", not comparable: a part of it") == 2
    assert "16 queries and 32 correct answers are missing" in said.err


def test_the_input_size_stands_beside_every_figure(
    trained: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "--folds", "2", "--ground-truth", str(truth)]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    titles = [line for line in lines if line.startswith("world, test: ")]
    rows = [line for line in lines if line.startswith("runs/stage2")]
    assert [title.removeprefix("world, test: ") for title in titles] == [
        "8 images, 24 captions",
        "mean ± deviation of 2 folds of 4 images",
        "ECCV Caption",
        "CxC",
    ]
    assert len(rows) >= len(titles) and max(map(len, lines)) <= 100
    assert all(row.split()[:3] == ["runs/stage2", "16", "px"] for row in rows)
    assert "median" in said.out and "rSum" in said.out
    for told in (
        "ECCV Caption: 8 images with 31 right answers, 24 captions with 31 right answers\n",
        "CxC: 8 images",
    ):
        assert told in said.err


def test_every_name_in_the_results_is_documented(
    trained: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(capsys, "--folds", "2", "--ground-truth", str(truth))
    known = set(re.findall(r"`(\w+)`", (ROOT / "docs/evaluation.md").read_text()))
    parts = [found, found["folds"], found["folds"]["each"][0], found["eccv_caption"], found["cxc"]]
    names = {name for part in parts for name in part}
    # "The same of t2i" is said once for all of them.
    assert {name.replace("t2i_", "i2t_") for name in names} - known == set()
    assert set(RANKS_SCHEMA.names) <= known


def test_ground_truth_of_something_else(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "--ground-truth", str(tmp_path)]) == 1
    assert "has no ground truth" in capsys.readouterr().err
    write_truth(tmp_path, "eccv", {"7": ["70"]}, {"70": ["7"]})
    assert run(["evaluate", "--ground-truth", str(tmp_path)]) == 1
    assert "belongs to other images or captions" in capsys.readouterr().err


def test_a_part_of_the_split_replaces_nothing(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluate(capsys)
    assert evaluate(capsys, "--limit", "4")["images"] == 4
    assert json.loads(Path("runs/stage2/eval-test.json").read_text()) == whole
    part = json.loads(Path("runs/stage2/eval-test-first-4.json").read_text())
    assert (part["captions"], part["limit"], whole["limit"]) == (12, 4, None)


def test_encoding_is_told(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate"]) == 0
    said = capsys.readouterr().err
    assert "encode: 8 of 8 images" in said and "encode: 24 of 24 captions" in said


def test_a_dry_run_names_every_file_and_writes_none(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = ["--ranks", "dry/ranks.parquet", "--failures", "dry/errors.html"]
    assert run(["evaluate", "--dry-run", "--out", "dry/x.json", *pages, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    check_json("evaluate", found, dry_run=True)
    assert found["writes"] == ["dry/x.json", "dry/ranks.parquet", "dry/errors.html"]
    assert not Path("dry").exists()


def test_where_nothing_can_be_written(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    for option, path in (("--ranks", "file/r.parquet"), ("--failures", "file/e.html")):
        assert run(["evaluate", option, path]) == 1
        assert f"cannot write {path}" in capsys.readouterr().err
