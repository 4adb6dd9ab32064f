"""Several processes train as one would: gloo on the CPU here, NCCL on GPUs by the same code."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from data.errors import UserError
from tests.vse.runs import make, run, run_together
from tests.vse.world import write_project
from vse.runs.folder import read_log
from vse.training.distributed import name_blocks, refuse_average

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


def check_same_as_alone(folder: str) -> None:
    """One process trains to the same weights and optimiser, up to rounding."""
    run(make("1", out=Path("runs/alone")))
    assert losses(folder) == pytest.approx(losses("runs/alone"), abs=2e-4)
    found, expected = state(folder), state("runs/alone")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5, msg=name)
    moved = [n for n, v in expected.items() if n.endswith("exp_avg") and v.abs().max() > 1e-4]
    assert len(moved) > 20
    variance = found["stage.model.text.mlp.1.running_var"]
    assert not torch.allclose(variance, torch.ones_like(variance), atol=1e-3)


def test_two_processes_without_the_residual(project: Path) -> None:
    """t is then not used, and its last layers get no gradient."""
    alone = ("decoder.residual=false", "decoder.in_sparse=true")
    assert run_together(make("sparse", out=Path("runs/two"), overrides=alone, steps=4)) == [0, 0]


def test_processes_that_see_different_data_are_refused(project: Path) -> None:
    """All of them end: none waits for the others."""
    spec = make("1", out=Path("runs/two"))
    splits = {**spec.corpus.splits, "train": spec.corpus.splits["train"][:-2]}
    fewer = replace(spec.corpus, splits=splits)
    assert run_together(spec, other=replace(spec, corpus=fewer)) == [1, 1]
    assert not Path("runs/two/config.json").exists()


def test_a_signal_is_answered_when_the_state_is_saved(project: Path) -> None:
    """Whoever ends first could have the others killed."""
    assert run_together(make("1", out=Path("runs/two")), stop=3) == [130, 130]


def test_two_processes_train_to_the_weights_of_one(project: Path) -> None:
    assert run_together(make("1", out=Path("runs/two"))) == [0, 0]
    evaluations = [e for e in read_log(Path("runs/two")) if e["event"] == "evaluation"]
    assert [e["step"] for e in evaluations] == [4, 8, 12]
    check_same_as_alone("runs/two")


def test_weights_shared_out_train_to_the_weights_of_one(project: Path) -> None:
    """FSDP2: every weight lies in parts in both processes, and whole on disk."""
    assert run_together(make("1", out=Path("runs/two")), shard=True) == [0, 0]
    check_same_as_alone("runs/two")
    kept = load_file("runs/two/model.safetensors")
    best = load_file("runs/alone/model.safetensors")
    torch.testing.assert_close(kept, best, rtol=1e-3, atol=2e-5)


def test_shared_out_killed_and_continued_equal_never_stopped(project: Path) -> None:
    half = ("optim.precision=bf16", "optim.chunk=4")
    whole, cut = (make("1", out=Path("runs", n), steps=8, overrides=half) for n in ("whole", "cut"))
    assert run_together(whole, shard=True) == [0, 0]
    assert run_together(cut, at=5, shard=True)[0] == -9
    assert run_together(cut, shard=True) == [0, 0]
    torch.testing.assert_close(state("runs/cut"), state("runs/whole"), rtol=0, atol=0)
    assert losses("runs/whole")[-1] < losses("runs/whole")[0]


def test_what_cannot_be_shared_out_is_refused() -> None:
    told: Any = SimpleNamespace(distributed_type=DistributedType.FSDP, is_fsdp2=False)
    with pytest.raises(UserError, match="optim.ema and FSDP cannot be combined"):
        refuse_average(told, 0.9)
    refuse_average(told, None)
    with pytest.raises(UserError, match="use --fsdp_version 2"):
        name_blocks(told, torch.nn.Linear(1, 1))


def test_two_processes_killed_and_continued_equal_never_stopped(project: Path) -> None:
    settings = {"overrides": ("optim.ema=0.9", "optim.chunk=4", "text.dropout=0.2")}
    run_stage_1 = make("1", out=Path("runs/stage1"), steps=2)
    run(run_stage_1)
    whole, cut = (
        make("2", out=Path("runs", name), init=Path("runs/stage1"), steps=8, **settings)  # type: ignore[arg-type]
        for name in ("whole", "cut")
    )
    assert run_together(whole) == [0, 0]
    assert run_together(cut, at=6)[0] == -9
    assert run_together(cut) == [0, 0]
    torch.testing.assert_close(state("runs/cut"), state("runs/whole"), rtol=0, atol=0)
    assert losses("runs/whole")[-1] < losses("runs/whole")[0]
    resumed = [e["step"] for e in read_log(Path("runs/cut")) if e["event"] == "resume"]
    assert resumed == [4]
