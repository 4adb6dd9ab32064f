"""The scale of the loss's logits: state of the model, carried from stage 1 to stage 2."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vse
from tests.vse.runs import make, run
from vse.model.logits import make_logits
from vse.recipes import LossConfig
from vse.runs.folder import Progress, RunFolder

SCALE = "logits.log_scale"


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def train_first(align: str = "infonce") -> dict[str, torch.Tensor]:
    """Stage 1 with a scale that moves fast; returns its weights."""
    overrides = (f"loss.align={align}", "optim.scale_lr=0.1")
    run(make("1", out=Path("runs/stage1"), steps=4, overrides=overrides))
    return weights("runs/stage1")


def train_second(*overrides: str) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """One step of stage 2 in which the scale stands still."""
    still = ("optim.scale_lr=0", "optim.weight_decay=0", *overrides)
    spec = make("2", out=Path("runs/two"), init=Path("runs/stage1"), steps=1, overrides=still)
    events = run(spec)
    return weights("runs/two"), events


@pytest.mark.parametrize("align", ["infonce", "siglip"])
def test_stage_2_goes_on_from_the_scale_of_stage_1(project: Path, align: str) -> None:
    first = train_first(align)
    start = make_logits(LossConfig(align=align), batch_size=16)
    assert start is not None and not torch.equal(first[SCALE], start.log_scale)
    second, events = train_second(f"loss.align={align}")
    for name, _ in start.named_parameters():
        assert torch.equal(second[f"logits.{name}"], first[f"logits.{name}"])
    assert not [e for e in events if e["event"] == "warning"]
    model = vse.load("runs/two", device="cpu").model
    assert model.logits is not None and torch.equal(model.logits.log_scale, second[SCALE])


def test_it_starts_anew_where_that_is_asked_for(project: Path) -> None:
    train_first()
    second, _ = train_second("loss.carry_scale=false")
    assert second[SCALE].item() == pytest.approx(-math.log(0.07))


def test_a_stage_1_that_kept_no_scale_is_told(project: Path) -> None:
    first = train_first()
    less = {name: value for name, value in first.items() if name != SCALE}
    save_file(less, "runs/stage1/model.safetensors")
    second, events = train_second()
    assert second[SCALE].item() == pytest.approx(-math.log(0.07))
    assert any("scale" in e["text"] for e in events if e["event"] == "warning")


def test_siglip_starts_at_the_share_of_positives() -> None:
    logits = make_logits(LossConfig(align="siglip"), batch_size=64)
    assert logits is not None and logits.bias is not None
    assert torch.sigmoid(logits.bias).item() == pytest.approx(1 / 64)


def test_an_older_state_with_averaged_weights_is_taken_up(project: Path) -> None:
    """In those the scale belongs to the loss, and the average has none."""

    def spec(out: str, **options: int) -> Any:
        return make("1", out=Path(out), overrides=("optim.ema=0.9",), **options)

    run(spec("runs/whole"))
    run(spec("runs/old"))
    folder = RunFolder(Path("runs/old"))
    [path] = folder.state.glob("*.safetensors")
    path.unlink()
    # As it was after four steps.
    before = make("1", out=Path("runs/begun"), steps=4, overrides=("optim.ema=0.9",))
    run(before)
    tensors = load_file("runs/begun/state/step-00000004.safetensors")
    old = {
        name.replace(".model.logits.", ".alignment.contrast."): value
        for name, value in tensors.items()
        if name != f"average.{SCALE}"
    }
    folder.save_state(old, Progress(4, 4, 0.0, False, 1.0, "step-00000004.safetensors", None))
    run(spec("runs/old"))
    found, expected = weights("runs/old"), weights("runs/whole")
    assert found.keys() == expected.keys()
    kept = [name for name in expected if not name.startswith("logits.")]
    for name in kept:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)
