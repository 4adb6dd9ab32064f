"""Both stages, with every alignment loss: two processes give the loss and gradient of one."""

from pathlib import Path

import torch

from tests.processes import run_pair
from tests.vse.objective.stage_worker import LOSSES, make_batch, make_stage, run, step


def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    outs = run_pair(run, tmp_path)
    found = [torch.load(out, weights_only=True) for out in outs]
    for name in LOSSES:
        stage = make_stage(name)
        alone = step(stage, make_batch(name))
        assert alone.keys() == {"loss", *(n for n, _ in stage.named_parameters())}
        largest = max(value.abs().max().item() for key, value in alone.items() if key != "loss")
        for key, value in alone.items():
            for one in found:
                torch.testing.assert_close(
                    one[name][key], value, rtol=1e-3, atol=1e-5 * largest, msg=f"{name}: {key}"
                )
