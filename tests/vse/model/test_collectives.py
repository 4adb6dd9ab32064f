"""Two processes give the loss and the gradient of one."""

from pathlib import Path

import torch

from tests.processes import FORK
from tests.vse.model.gather_worker import Toy, make_batch, run
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
    alone = Toy()
    loss = alone(*make_batch())
    loss.backward()
    for out in outs:
        found = torch.load(out, weights_only=True)
        torch.testing.assert_close(found["loss"], loss.detach())
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(found["grads"][name], parameter.grad, msg=name)
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0
