"""Both stages, with every alignment loss: two processes give the loss and gradient of one."""

from pathlib import Path

import torch

from tests.processes import FORK
from tests.vse.objective.stage_worker import LOSSES, make_batch, make_stage, run, step
from tests.waiting import HANG_SECONDS


def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    outs = [tmp_path / f"{rank}.pt" for rank in range(2)]
    processes = [
        FORK.Process(target=run, args=(rank, tmp_path / "store", out))
        for rank, out in enumerate(outs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=HANG_SECONDS)
    assert [process.exitcode for process in processes] == [0, 0]
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
