"""The fair comparison: equal budgets, paired intervals, and a run of it that is taken up."""

import itertools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.experiments import fair
from pipelines.experiments.fair import measure_pace
from pipelines.experiments.fair_page import BUDGETS, format_page, interval, summarise
from pipelines.experiments.methods import METHODS, VARIANTS, list_settings
from tests.documents import ROOT
from tests.vse.world import write_recipe
from vse.recipes.files import read_recipe, resolve


def run_of(method: str, seed: int, rsum: float, val: float) -> dict[str, Any]:
    figures = {"rsum": rsum, "val_rsum": val, "steps": 10, "seconds": 1.0, "variant": "as-it-is"}
    return {"method": method, "seed": seed, **figures}


def test_the_interval_is_that_of_paired_differences() -> None:
    gaps = [1.0, 2.0, 4.0, 3.0, 0.0]
    low, high = interval(gaps) or (0.0, 0.0)
    half = 2.776 * statistics.stdev(gaps) / math.sqrt(5)
    assert (low, high) == pytest.approx((2 - half, 2 + half))
    assert interval([1.0]) is None
    # Beyond ten seeds, it is too wide rather than too narrow.
    many = [float(value % 3) for value in range(11)]
    low, high = interval(many) or (0.0, 0.0)
    assert (high - low) / 2 >= 2.228 * statistics.stdev(many) / math.sqrt(11)


def test_a_method_stands_beside_the_baseline_that_validates_best() -> None:
    runs = [
        *(run_of("sparse-1", seed, 100.0, 50.0) for seed in range(3)),
        *(run_of("sparse-2", seed, 90.0 + seed, 60.0) for seed in range(3)),
        *(run_of("joint", seed, 95.0 + 2 * seed, 70.0) for seed in range(3)),
    ]
    rows = {row["method"]: row for row in summarise(runs)}
    # Chosen by validation, whatever the test split says.
    assert [name for name, row in rows.items() if row["reference"]] == ["sparse-2"]
    assert rows["joint"]["gap"] == pytest.approx(6.0)
    assert rows["joint"]["interval"] == pytest.approx((6 - 4.303 / 3**0.5, 6 + 4.303 / 3**0.5))
    assert rows["sparse-2"]["gap"] is None


@pytest.mark.parametrize("recipe", ["scenes", "scenes-frozen"])
@pytest.mark.parametrize("name", METHODS)
def test_the_settings_of_every_method_exist(name: str, recipe: str) -> None:
    raw = read_recipe(recipe)
    for variant in VARIANTS:
        for training in METHODS[name].trainings:
            changed = list_settings(variant, resolve(raw, stage=training.stage).optim)
            settings = (*changed, *training.settings)
            found = resolve(raw, stage=training.stage, overrides=settings)
            if "-depth-" in name and training.stage == "2":
                assert found.decoder.depth == int(name.rpartition("-")[2])
    assert sum(training.share for training in METHODS[name].trainings) == pytest.approx(1)


def pace(runs: Sequence[fair.Run]) -> float:
    """Fixed: what is measured over eight tiny steps is a matter of luck."""
    assert measure_pace(runs) > 0
    return {"sparse-1": 1.0, "joint-finish": 1.6}[runs[0].method.name]


def test_a_small_one_from_start_to_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(Path("tiny.yaml"), optim={"eval_every": 2}, text={"vocab_size": 200})
    words = ["fair", "--out", "fair", "--methods", "sparse-1", "joint-finish", "--sizes", "24"]
    words += ["--bits", "2", "--seeds", "0", "1", "--steps", "8", "--val", "6", "--test", "6"]
    words += ["--variants", "as-it-is", "strong", "--recipe", "tiny.yaml", "--truth"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(fair, "measure_pace", pace)
    fair.main()
    found = json.loads(Path("fair/fair_tiny.json").read_text())
    assert len(found["tuning"]) == 8 and {run["seed"] for run in found["tuning"]} == {1000}
    steps = {run["method"]: run["steps"] for run in found["equal steps"]}
    assert steps == {"sparse-1": 8, "joint-finish": 8}
    # In the time of the first method's steps the other takes fewer or more of its own.
    scale = json.loads(Path("fair/scales.json").read_text())["2-bits/24-images/joint-finish"]
    later = [run for run in found["equal seconds"] if run["method"] == "joint-finish"]
    assert {run["steps"] for run in later} == {max(1, round(6 * scale)) + max(1, round(2 * scale))}
    # The variant is the one that validates best with the budget.
    for budget, method in itertools.product(BUDGETS, ("sparse-1", "joint-finish")):
        own = [r for r in found["tuning"] if (r["method"], r["budget"]) == (method, budget)]
        tried = {r["variant"]: r["val_rsum"] for r in own}
        steps = {r["steps"] for r in found[budget] if r["method"] == method}
        assert len(tried) == 2 and {r["steps"] for r in own} == steps
        taken = {r["variant"] for r in found[budget] if r["method"] == method}
        assert [tried[variant] for variant in taken] == [max(tried.values())]
    page = Path("fair/fair_tiny.md").read_text()
    assert page.count("| tuning, equal steps |") == page.count("| tuning, equal seconds |") == 4
    assert "per object, equal seconds" in page and "[" in page
    assert len(list(Path("fair/runs").rglob("cache"))) == 1
    # What is published names no local folder, and the code that made it.
    text = Path("fair/fair_tiny.json").read_text()
    assert str(tmp_path) not in text + page and found["recipe"] == "tiny.yaml"
    [code] = found["code"]
    assert f"`{code}`" in page
    # The same command again has nothing to do.
    before = json.loads(Path("fair/steps.json").read_text())["steps"]
    fair.main()
    assert json.loads(Path("fair/steps.json").read_text())["steps"] == before
    # Seconds of one and of two runs at a time cannot be compared.
    more = ["joint-0" if word == "joint-finish" else word for word in words]
    monkeypatch.setattr(sys, "argv", [*more, "--workers", str(found["workers"] + 1)])
    with pytest.raises(SystemExit):
        fair.main()
    assert "workers" in capfd.readouterr().err
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(fair, "name_processor", lambda: "another model")
        patch.setattr(sys, "argv", words)
        fair.main()
    assert "processor" in capfd.readouterr().err
    monkeypatch.setattr(sys, "argv", words)
    # A changed recipe, or another first method, is another comparison.
    capfd.readouterr()
    text = Path("tiny.yaml").read_text()
    Path("tiny.yaml").write_text(text.replace('"eval_every": 2', '"eval_every": 4'))
    with pytest.raises(SystemExit):
        fair.main()
    assert "recipe_sha256" in capfd.readouterr().err
    Path("tiny.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["joint" if word == "sparse-1" else word for word in words])
    with pytest.raises(SystemExit):
        fair.main()
    assert "first is sparse-1 there" in capfd.readouterr().err


def test_one_variant_is_not_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(Path("tiny.yaml"), optim={"eval_every": 2}, text={"vocab_size": 200})
    words = ["fair", "--out", str(tmp_path / "fair"), "--methods", "sparse-1", "--sizes", "24"]
    words += ["--bits", "0", "--steps", "4", "--val", "6", "--test", "6", "--recipe", "tiny.yaml"]
    words += ["--variants", "strong", "--budgets", "equal steps", "--truth"]
    # What is named twice is run once; without tuning, its seed is one like the others.
    words += ["--variants", "strong", "strong", "--seeds", "1000", "1000"]
    words += ["--docs", "pages", "--name", "other"]
    monkeypatch.setattr(sys, "argv", words)
    fair.main()
    found = json.loads(Path("pages/fair_other.json").read_text())
    assert Path("pages/fair_other.md").exists() and Path("fair/fair_other.json").exists()
    assert [run["variant"] for run in found["equal steps"]] == ["strong"]
    assert found["tuning"] == [] and "equal seconds" not in found
    assert found["seeds"] == [1000] and "--out fair " in found["command"]
    capfd.readouterr()


def test_the_seed_of_the_tuning_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fair", "--out", str(tmp_path), "--seeds", "0", "1000"])
    with pytest.raises(SystemExit) as caught:
        fair.main()
    assert caught.value.code == 1 and "seed 1000" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fair, "run_comparison", interrupt)
    monkeypatch.setattr(sys, "argv", ["fair", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        fair.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err.splitlines() == ["fair: interrupted"]


@pytest.mark.parametrize("path", sorted((ROOT / "docs/experiments").glob("fair_*.json")))
def test_published_figures_can_be_written_again(path: Path) -> None:
    found = json.loads(path.read_text())
    page = "\n".join(format_page(found))
    assert page.count("\n| equal ") == sum(len(found.get(budget, ())) for budget in BUDGETS)
    assert ("Code (" in page) == ("code" in found)
