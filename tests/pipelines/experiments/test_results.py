"""Means, deviations and the rule, against figures worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from pipelines.experiments.ablation_table import Row, Table
from pipelines.experiments.document import format_rows, show_decision, write_document
from pipelines.experiments.results import (
    compare_seeds,
    decide,
    refuse_other_data,
    spread,
    summarise,
)
from pipelines.experiments.trainings import Training
from vse.evaluation.results import RECALLS


def test_spread() -> None:
    assert spread([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(math.sqrt(2))}
    assert spread([5.0]) == {"mean": 5.0, "sd": 0.0}


def test_differences_are_taken_seed_by_seed() -> None:
    found = compare_seeds({0: 10.0, 1: 13.0, 2: 99.0}, {0: 9.0, 1: 9.0})
    assert found == {"mean": 2.5, "sd": pytest.approx(math.sqrt(4.5))}
    assert compare_seeds({0: 1.0}, {1: 1.0}) is None


def test_an_idea_is_kept_if_it_gains_more_than_the_pooled_deviation() -> None:
    base = [100.0, 102.0]  # variance 2
    found = decide([102.0, 106.0], base)  # mean 104, variance 8
    assert found["gain"] == pytest.approx(3.0)
    assert found["pooled"] == pytest.approx(math.sqrt((2 + 8) / 2))
    assert found["kept"] is True
    assert decide([101.0, 105.0], base)["kept"] is False
    assert decide([90.0, 90.0], base)["kept"] is False
    assert decide([200.0], base[:1])["kept"] is None


def test_a_row_and_its_reference_are_compared_on_the_seeds_of_both() -> None:
    def make(seeds: dict[int, float], folder: str) -> dict[int, dict[str, Any]]:
        return {
            seed: {"rsum": value, "val_rsum": value, "folder": f"{folder}-{seed}"}
            for seed, value in seeds.items()
        }

    row = Row(name="idea")
    table = Table("t", "T", (Row(name="base", reference=True), row), decides=True)
    base = make({0: 100.0, 1: 102.0, 2: 170.0}, "base")
    # Seed 2 of the idea failed, and is the best one of the reference.
    found = summarise(row, Training("2"), make({0: 104.0, 1: 106.0}, "idea"), base, table)
    assert found["decision"] == decide([104.0, 106.0], [100.0, 102.0])
    assert found["decision"]["kept"] is True and found["gain"]["mean"] == pytest.approx(4.0)
    same = summarise(row, Training("2"), make({1: 102.0}, "base"), base, table)
    assert same["same_as_reference"] and "decision" not in same
    none = summarise(row, Training("2"), make({3: 1.0}, "idea"), base, table)
    assert "decision" not in none and none["gain"] is None


def test_a_table_says_what_is_missing_and_what_lost() -> None:
    cell = {"seed": 0}
    table = {
        "title": "Depth",
        "decides": False,
        "rows": [
            {"name": "0", "steps": [1000, 400], "runs": [cell, cell], "paper": 531.9,
             "rsum": {"mean": 150.04, "sd": 1.26}, "gain": {"mean": -3.0, "sd": 0.5}},
            {"name": "1", "steps": [7], "runs": [cell], "paper": None,
             "rsum": {"mean": 2.0, "sd": 0.0}, "gain": None},
            {"name": "a|b", "steps": [7], "runs": [], "paper": None, "rsum": None, "gain": None},
        ],
    }  # fmt: skip
    lines = format_rows(table)
    assert lines[2:] == [
        "| 0 | 1,000 + 400 | 2 | 150.0 ± 1.3 | -3.0 ± 0.5 | 531.9 |",
        "| 1 | 7 | 1 | 2.0 | – | – |",
        "| a\\|b | 7 | 0 | – | – | – |",
    ]


def test_decisions_in_words() -> None:
    row = {"decision": {"gain": 2.0, "pooled": 1.0, "kept": True}}
    assert show_decision(row) == ["+2.0", "1.0", "**kept**"]
    assert show_decision({"same_as_reference": True})[-1] == "same settings"
    row = {"decision": {"gain": 2.0, "pooled": None, "kept": None}}
    assert show_decision(row) == ["+2.0", "–", "undecided: one seed"]


def test_seeds_of_other_data_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / f"seed-{seed}" for seed in range(3)]
    for folder, data in zip(folders, ("a", "a", "b"), strict=True):
        folder.mkdir()
        found = {"fingerprint": {"data": data, "dense": "d"}}
        (folder / "config.json").write_text(json.dumps(found))
    refuse_other_data(folders[:2])
    with pytest.raises(UserError, match=r"seed-2.*different"):
        refuse_other_data(folders)


def test_a_page_says_how_many_images_were_left_out() -> None:
    run = dict.fromkeys((*RECALLS, "val_rsum", "best_step"), 1.0) | {"seed": 0}
    row = {"name": "a", "steps": [1], "paper": None, "rsum": None, "gain": None}
    table = {"title": "T", "split": "test", "seeds": [0], "notes": [], "paper": None}
    table |= {"decides": False, "reference": "a"}
    found = {"command": "c", "recipe": "r", "px": 16, "data": {"description": "d"}}
    for lost in (0, 2):
        rows = [{**row, "runs": [run, {**run, "images_left_out": lost}]}]
        page = write_document({**table, "rows": rows}, found)
        assert ("2 images of the test split" in page) == (lost == 2)
