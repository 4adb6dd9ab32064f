"""The joint stage: a caption and the dense text of each image in one step."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vse
from data.errors import UserError
from tests.vse.runs import make, run, run_and_die
from vse.runs.folder import read_log


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def test_it_learns_is_taken_up_and_finished_on_sparse_text(project: Path) -> None:
    whole, cut = (
        make("joint", out=Path("runs", name), steps=24, eval_every=12) for name in ("joint", "cut")
    )
    run(whole)
    losses = [e["align"] for e in read_log(Path("runs/joint")) if e["event"] == "step"]
    assert sum(losses[-4:]) < sum(losses[:4])
    chosen = [e for e in read_log(Path("runs/joint")) if e["event"] == "evaluation"]
    assert {e["chosen_by"] for e in chosen} == {"sparse"}
    run_and_die(cut, at=15)
    run(cut)
    torch.testing.assert_close(weights("runs/cut"), weights("runs/joint"), rtol=0, atol=0)

    # Stage 2 goes on with all that there is, decoder and scale included.
    still = ("optim.lr=0", "optim.backbone_lr=0", "optim.weight_decay=0", "loss.distill_weight=0")
    run(make("2", out=Path("runs/two"), init=Path("runs/joint"), steps=1, overrides=still))
    before, after = weights("runs/joint"), weights("runs/two")
    assert before.keys() == after.keys() and any(name.startswith("decoder.") for name in before)
    for name in before:
        if "running" not in name and "tracked" not in name:
            assert torch.equal(before[name], after[name]), name
    assert vse.load("runs/two", device="cpu").model.decoder is not None


def test_there_is_no_image_of_stage_1_to_draw_to(project: Path) -> None:
    with pytest.raises(UserError, match="distill_image"):
        make("joint", out=Path("runs/joint"), overrides=("loss.distill_image=image",))


def test_the_baseline_may_have_a_decoder(project: Path) -> None:
    run(make("sparse", out=Path("runs/a"), steps=2, overrides=("decoder.in_sparse=true",)))
    run(make("sparse", out=Path("runs/b"), steps=2))
    found = [any(n.startswith("decoder.") for n in weights(f"runs/{x}")) for x in "ab"]
    assert found == [True, False]
