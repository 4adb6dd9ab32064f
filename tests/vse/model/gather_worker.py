"""One process of test_gather: embeds its half of a batch and writes its gradients."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vse.model.collectives import gather
from vse.model.logits import Logits
from vse.objective.alignment import cosine_scores, hinge, infonce
from vse.objective.distillation import distill

BATCH = 8


class Toy(nn.Module):
    """Two linear towers and the losses of stage 2 over the gathered batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(5, 4), nn.Linear(6, 4)
        self.logits = Logits(scale=1 / 0.07)

    def forward(self, x: Tensor, y: Tensor, index: Tensor, teacher: Tensor) -> Tensor:
        v, t = gather(self.image(x)), gather(self.text(y))
        scores, index = cosine_scores(v, t), gather(index)
        align = hinge(scores, index, margin=0.2, hardest=True) + infonce(self.logits(scores), index)
        total: Tensor = align + distill(t, gather(teacher), kind="cosine")
        return total


def make_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    index = torch.tensor([0, 1, 2, 3, 1, 5, 6, 7])  # an image seen by both processes
    return torch.randn(BATCH, 5), torch.randn(BATCH, 6), index, torch.randn(BATCH, 4)


def run(rank: int, store: Path, out: Path) -> None:
    """What process `rank` of two does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = DistributedDataParallel(Toy())
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    loss = model(*(part[half] for part in make_batch()))
    loss.backward()
    grads = {name: p.grad for name, p in model.module.named_parameters()}
    torch.save({"loss": loss.detach(), "grads": grads}, out)
    dist.barrier()
    # Gloo's threads may wait for the GIL that its destructor holds, for ever.
    os._exit(0)
