"""Several processes train as one would: gloo on the CPU here, NCCL on GPUs by the same code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.vse.runs import make, run, run_together
from tests.vse.world import write_project
from vse.checkpoint import read_log

# Dropout draws for each process anew. A large eps, since Adam turns the rounding of gradients that
# are zero (a bias before BatchNorm, say) into steps of full length.
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CHANGES: dict[str, Any] = {
    "image": {"config": PLAIN},
    "text": {"config": PLAIN, "dropout": 0.0},
    "optim": {"eps": 1e-3},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, **CHANGES)
    return tmp_path


def state(folder: str | Path) -> dict[str, torch.Tensor]:
    [path] = Path(folder, "state").glob("*.safetensors")
    return load_file(path)


def losses(folder: str) -> list[float]:
    return [e["loss"] for e in read_log(Path(folder)) if e["event"] == "step"]


@pytest.mark.parametrize("chunk", [None, 3], ids=["whole", "chunks"])
def test_two_processes_train_to_the_weights_of_one(project: Path, chunk: int | None) -> None:
    # Chunks of 3 of each process's 8: BatchNorm sees other rows than alone, so nothing is masked
    # here but its statistics are those of both processes' chunks.
    if chunk is None:
        alone = make("1", out=Path("runs/alone"))
        run(alone)
    together = make("1", out=Path("runs/two"), chunk=chunk)
    assert run_together(together) == [0, 0]
    evaluations = [e for e in read_log(Path("runs/two")) if e["event"] == "evaluation"]
    assert [e["step"] for e in evaluations] == [4, 8, 12]
    if chunk is not None:
        assert losses("runs/two")[-1] < losses("runs/two")[0]
        return
    assert losses("runs/two") == pytest.approx(losses("runs/alone"), abs=2e-4)
    found, expected = state("runs/two"), state("runs/alone")
    moved = 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5, msg=name)
        moved += name.startswith("optimizer.") and bool(value.abs().max() > 1e-4)
    assert moved > 20
    statistics = "stage.model.text.mlp.1.running_var"
    assert not torch.allclose(found[statistics], torch.ones_like(found[statistics]), atol=1e-3)


def test_two_processes_killed_and_continued_equal_never_stopped(project: Path) -> None:
    settings = {"overrides": ("optim.ema=0.9", "loss.align=hinge", "text.dropout=0.2")}
    run_stage_1 = make("1", out=Path("runs/stage1"), steps=2)
    run(run_stage_1)
    whole, cut = (
        make("2", out=Path("runs", name), init=Path("runs/stage1"), **settings)  # type: ignore[arg-type]
        for name in ("whole", "cut")
    )
    assert run_together(whole) == [0, 0]
    assert run_together(cut, at=7)[0] == -9
    assert run_together(cut) == [0, 0]
    torch.testing.assert_close(state("runs/cut"), state("runs/whole"), rtol=0, atol=0)
    resumed = [e["step"] for e in read_log(Path("runs/cut")) if e["event"] == "resume"]
    assert resumed == [4]
