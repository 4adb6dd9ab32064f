"""The whole way in small: the real engine, real training steps, the report; then as a notebook."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.dense.shards import read_rows
from pipelines.experiments.baseline import caption_scenes, evaluate_methods, train_methods
from tests.documents import ROOT, read_blocks, read_shell_lines
from tests.end_to_end.walkthrough import (
    TOKEN,
    read_commands,
    read_notebook,
    read_output,
    run_notebook,
)
from tests.hub.server import HubServer
from tests.json_outputs import check_json

SMALL = ["--train", "128", "--val", "16", "--test", "24", "--steps", "6"]
# The same for the notebook.
SIZES = {"TRAIN": 128, "VAL": 16, "TEST": 24, "STEPS": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    assert "dense to sparse" in run_demo(out)
    return out


def run_demo(out: Path) -> str:
    """The command as a user runs it; returns what it prints as its result."""
    line = [sys.executable, "-P", "-m", "pipelines.cli", "demo", "--out", str(out), *SMALL]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.vllm
def test_results_hold_all_rows_and_what_stands_beside_them(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    # What --json prints.
    check_json("demo", results)
    for row in ("dense_to_sparse", "joint", "sparse_only"):
        recalls = [results[row][f"{way}_r{cut}"] for way in ("i2t", "t2i") for cut in (1, 5, 10)]
        assert all(0 <= value <= 100 for value in recalls)
        assert results[row]["rsum"] == pytest.approx(sum(recalls))
    assert 40 < results["oracle_r1"] <= 100
    assert 0.9 < results["captioner"]["true"] <= 1
    assert 0.9 < results["captioner"]["told"] <= 1
    steps = {"scenes", "caption", "stage 1", "stage 2", "joint", "sparse only", "total"}
    assert steps <= set(results["seconds"])
    chains = train_methods(steps=6, seed=0, threads=1)
    commands = [command for chain in (*chains, evaluate_methods()) for command in chain]
    made = [command.makes for command in (*commands, caption_scenes(seed=0))]
    assert [path for path in made if path is None or not (folder / path).exists()] == []


@pytest.mark.vllm
def test_every_image_was_captioned_by_the_real_engine(folder: Path) -> None:
    table = read_rows(folder / "dense" / "scenes", columns=["caption", "engine"])
    assert table.num_rows == 128 + 16 + 24
    assert set(table.column("engine").to_pylist()) == {"vllm"}
    assert all(text.startswith("The image shows") for text in table.column("caption").to_pylist())


@pytest.mark.vllm
def test_the_methods_took_equal_steps(folder: Path) -> None:
    taken = {}
    for run in ("stage1", "stage2", "joint", "sparse"):
        events = (folder / "runs" / run / "log.jsonl").read_text().splitlines()
        taken[run] = max(json.loads(event).get("step", 0) for event in events)
    assert taken["stage1"] + taken["stage2"] == taken["joint"] == taken["sparse"] == 6


@pytest.mark.vllm
def test_the_report_stands_alone_with_its_pictures(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 6 + 6 * 3 * 5
    sources = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


@pytest.mark.vllm
def test_again_changes_nothing(folder: Path) -> None:
    before = (folder / "results.json").read_bytes()
    assert "dense to sparse" in run_demo(folder)
    assert (folder / "results.json").read_bytes() == before


def test_the_notebook_has_no_outputs() -> None:
    cells = [cell for cell in read_notebook().cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_the_notebook_has_the_commands_of_the_quick_start() -> None:
    """In its order; how long and how large is a variable there."""
    blocks = read_blocks(ROOT / "docs/quickstart.md")
    lines = read_shell_lines(ROOT / "docs/quickstart.md")
    page = [line for line in lines if line.startswith("d2s ")]
    own = [re.sub(r" --steps \$\w+", "", line) for line in read_commands()]
    sizes = read_notebook().cells[1].source
    own = [re.sub(r"\$(\w+)", lambda m: _size_of(m.group(1), sizes), line) for line in own]
    assert own == page and len(page) > 10
    # Its Python too: what is loaded from where.
    calls = re.findall(r"(?:vse\.load|load_dataset)\(.*?\)", "".join(blocks))
    code = "".join(cell.source for cell in read_notebook().cells)
    assert len(calls) == 3 and [call for call in calls if call not in code] == []


def _size_of(name: str, source: str) -> str:
    found = re.search(rf'"{name}": (\d+)', source)
    assert found, name
    return found.group(1)


@pytest.mark.vllm
def test_the_notebook_runs_and_publishes(folder: Path, tmp_path: Path) -> None:
    """Its commands go on where the demo, which typed the same, has left; the Hub is a stand-in."""
    with HubServer() as server:
        said = read_output(run_notebook(server, folder, tmp_path, SIZES))
        data, model = (
            server.hub.find(kind, f"me/scenes-{name}")
            for kind, name in (("dataset", "dense"), ("model", "d2s"))
        )
    assert "nothing left to do" in said, "the engine was started once more"
    assert "168 texts;" in said and "168 rows;" in said and TOKEN not in said
    assert data is not None and model is not None
    assert (folder / "hits.html").is_file() and (folder / "dense/scenes/review.html").is_file()
