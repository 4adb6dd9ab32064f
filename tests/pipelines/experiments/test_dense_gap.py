"""The experiment on the size of the training set: nested subsets, means and deviations, a table."""

import json
import math
from pathlib import Path

import pytest

from data.scenes.folder import write_scenes
from pipelines.experiments.dense_gap import (
    summarise,
    write_document,
    write_subset,
    write_table,
)
from vse.evaluation.results import RECALLS


def cell(size: int, seed: int, dense: float, sparse: float) -> dict:
    recalls = dict.fromkeys(RECALLS, 1.0)
    return {
        "size": size,
        "seed": seed,
        "dense_to_sparse": {**recalls, "rsum": dense},
        "sparse_only": {**recalls, "rsum": sparse},
    }


CELLS = [cell(500, 0, 110.0, 100.0), cell(500, 1, 130.0, 104.0), cell(1000, 0, 9.0, 10.0)]


def test_means_and_deviations_are_over_the_seeds_of_a_size() -> None:
    row = summarise(CELLS, 500)
    assert row["gap"] == {"mean": 18.0, "sd": pytest.approx(math.sqrt(128))}
    assert row["dense_to_sparse"]["mean"] == 120.0
    assert summarise(CELLS, 1000)["gap"] == {"mean": -1.0, "sd": 0.0}


def test_a_loss_shows_as_a_loss() -> None:
    text = write_table({"comparisons": CELLS, "summary": [summarise(CELLS, 1000)]})
    assert "| 1,000 | 10.0 ± 0.0 | 9.0 ± 0.0 | -1.0 ± 0.0 |" in text
    assert text.count("sparse only |") >= 3


def test_subsets_are_nested_and_share_the_other_splits(tmp_path: Path) -> None:
    counts = {"train": 6, "val": 1, "test": 2}
    write_scenes(tmp_path / "scenes", counts=counts, seed=0, processes=1)
    found = {}
    for size in (2, 4):
        write_subset(tmp_path, size)
        images = json.loads((tmp_path / f"captions-{size}.json").read_text())["images"]
        found[size] = [(image["split"], image["filename"]) for image in images]
    assert [split for split, _ in found[2]] == ["train"] * 2 + ["val"] + ["test"] * 2
    assert set(found[2]) < set(found[4])


def test_the_document_says_how_it_came_about(tmp_path: Path) -> None:
    found = {
        "steps": {"stage1": 601, "stage2": 402, "sparse": 1003},
        "seeds": [0, 1],
        "comparisons": CELLS,
        "summary": [summarise(CELLS, 500)],
        "captioner": {"true": 0.98, "told": 0.97},
        "oracle": {"images": 500, "captions": 2500, "i2t_r1": 99.0, "t2i_r1": 72.0},
    }
    write_document(found, tmp_path / "docs")
    text = (tmp_path / "docs" / "dense_gap.md").read_text()
    for figure in ("601 steps in stage 1", "402 in stage 2", "1,003", "98.0 %", "+18.0 ± 11.3"):
        assert figure in text
    assert json.loads((tmp_path / "docs" / "dense_gap.json").read_text()) == found
