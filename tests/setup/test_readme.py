"""The README's figures come from the results, and only the marked part is rewritten."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import UserError
from tests.documents import ROOT
from tools.readme import (
    RESULTS,
    describe_baselines,
    read_section,
    update,
    write_gap,
    write_results,
    write_tour,
)

ROW = dict.fromkeys(("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"), 10.0)
DEMO = {
    "dense_to_sparse": {**ROW, "rsum": 160.4},
    "joint": {**ROW, "rsum": 170.1},
    "sparse_only": {**ROW, "rsum": 140.2},
    "oracle": {"i2t_r1": 99.1, "t2i_r1": 72.3},
    "captioner": {"true": 0.987, "told": 0.975},
    "scenes": {"facts_per_caption": 5.5, "facts_per_image": 26.0, "share_untold_by_five": 0.45},
    "seconds": {"caption": 61.0, "total": 480.0},
    "machine": "a machine",
    "settings": {"seed": 7},
}
FAIR = {
    "seeds": [0, 1],
    "steps": 600,
    "recipe": "worlds/small.yaml",
    "equal steps": [
        {**run, "bits": bits, "seed": seed, "rsum": run["rsum"] + seed, "variant": "as-it-is"}
        for bits in (0, 2)
        for seed in (0, 1)
        for run in (
            {"method": name, "size": 1000, "rsum": rsum, "val_rsum": rsum, "steps": 1, "seconds": 1}
            for name, rsum in {"sparse-1": 100.0, "sparse-2": 110.0, "joint": 125.0 + bits}.items()
        )
    ],
}


def test_figures_are_those_of_the_results() -> None:
    text = write_results(DEMO)
    for figure in (
        "8.0 minutes",
        "seed 7",
        "caption 61 s",
        "160.4",
        "170.1",
        "140.2",
        "98.7 %",
        "97.5 %",
        "72.3",
    ):
        assert figure in text
    assert "total" not in text


def test_runs_in_parallel_are_told_from_their_seconds() -> None:
    assert "in parallel" not in write_results(DEMO)
    seconds = {"stage 1": 300.0, "joint": 300.0, "total": 480.0}
    assert "in parallel" in write_results({**DEMO, "seconds": seconds})


def test_gaps_are_those_of_the_experiment() -> None:
    text = write_gap(FAIR, "docs/fair_named.md")
    assert "over 2 seeds, 600 steps" in text.replace("\n", " ")
    assert "(docs/fair_named.md)" in text
    assert "one or two per step, whichever is better" in text.replace("\n", " ")
    assert "| 1,000 | 110.5 | 125.5 (+15.0; +15.0 to +15.0) |" in text


def test_the_baselines_are_those_that_were_compared() -> None:
    assert describe_baselines({"joint", "sparse-1"}) == "one per step"
    told = describe_baselines({"joint", "sparse-1", "sparse-2", "sparse-decoder"})
    assert "one or two per step or one per step with the decoder, whichever is best" in told


def test_the_section_of_the_readme_comes_from_the_published_figures(tmp_path: Path) -> None:
    _, section, _ = read_section(ROOT / "README.md", RESULTS)
    fair = json.loads((ROOT / "docs/experiments/fair_scenes-frozen.json").read_text())
    assert write_gap(fair, "docs/experiments/fair_scenes-frozen.md") in section
    readme, page = tmp_path / "README.md", tmp_path / "pages/fair_x.json"
    readme.write_text("<!-- results --><!-- /results -->")
    page.parent.mkdir()
    page.write_text(json.dumps(FAIR))
    (tmp_path / "demo.json").write_text(json.dumps(DEMO))
    words = ["demo.json", "pages/fair_x.json", "--readme", str(readme)]
    command = [sys.executable, "-m", "tools.readme", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert "(pages/fair_x.md)" in readme.read_text()


def test_only_what_stands_between_the_marks_changes(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# d2s\n\n<!-- results -->\nold\n<!-- /results -->\n\nrest\n")
    update(readme, RESULTS, "new")
    assert readme.read_text() == "# d2s\n\n<!-- results -->\n\nnew\n\n<!-- /results -->\n\nrest\n"


def test_a_readme_without_marks_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# d2s\n")
    with pytest.raises(UserError, match="lacks the markers"):
        update(readme, RESULTS, "new")
    assert readme.read_text() == "# d2s\n"


def test_the_tour_shows_what_its_commands_print(tmp_path: Path) -> None:
    block = "```console\n$ d2s scenes --out world --train 2 --val 1 --test 1\nstale\n```"
    shown = write_tour(block, tmp_path)
    assert "$ d2s scenes --out world --train 2 --val 1 --test 1\n4 scenes in world" in shown
    assert "stale" not in shown and (tmp_path / "world").is_dir()
