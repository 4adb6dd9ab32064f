"""Two processes give the loss and the gradient of one."""

from pathlib import Path

import torch

from tests.processes import run_pair
from tests.vse.model.gather_worker import Toy, make_batch, run


def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    outs = run_pair(run, tmp_path)
    alone = Toy()
    loss = alone(*make_batch())
    loss.backward()
    for out in outs:
        found = torch.load(out, weights_only=True)
        torch.testing.assert_close(found["loss"], loss.detach())
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(found["grads"][name], parameter.grad, msg=name)
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0
