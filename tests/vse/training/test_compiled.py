"""`accelerate launch --dynamo_backend`: compiled blocks, and weights that keep their names."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters

from tests.vse.runs import make, run
from tests.vse.world import write_project
from vse.runs.folder import read_log
from vse.training.distributed import compile_blocks

BACKEND = "ACCELERATE_DYNAMO_BACKEND"


def test_a_compiled_run_is_read_by_stage_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    deep = {"config": {"num_hidden_layers": 2}}
    write_project(tmp_path, image=deep, text=deep)
    run(make("1", out=Path("runs/plain")))
    counters.clear()
    # "eager" traces as the other backends do, and compiles nothing.
    monkeypatch.setenv(BACKEND, "EAGER")
    run(make("1", out=Path("runs/compiled")))
    assert counters["frames"]["ok"] > 0
    plain, compiled = (
        load_file(f"runs/{name}/model.safetensors") for name in ("plain", "compiled")
    )
    assert plain.keys() == compiled.keys()
    losses = [
        [event["loss"] for event in read_log(Path("runs", name)) if event["event"] == "step"]
        for name in ("plain", "compiled")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    run(make("2", out=Path("runs/stage2"), init=Path("runs/compiled")))


def test_blocks_are_those_of_the_outermost_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    def block() -> nn.Module:
        return nn.ModuleDict({"inner": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))})

    stage = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([block(), block(), block()]))
    assert compile_blocks(stage) == 0
    monkeypatch.setenv(BACKEND, "EAGER")
    assert compile_blocks(stage) == 3
