"""One process of test_gather_stages: whole stages on its half of a batch, and their gradients."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.vse.model.test_towers import make_model
from vse.model.text_batch import pad_texts
from vse.objective.stages import DenseStage, SparseStage
from vse.recipes import LossConfig
from vse.samples.batches import Batch

BATCH = 6
LOSSES = {
    "stage 1": LossConfig(align="siglip"),
    "stage 2, hinge": LossConfig(distill="l1"),
    "stage 2, siglip": LossConfig(align="siglip", distill="l2"),
    "stage 2, infonce": LossConfig(align="infonce", distill="l2", distill_reduction="sum"),
    "stage 2, two texts an image": LossConfig(distill="l2", distill_image="image"),
}


def make_stage(name: str) -> nn.Module:
    """In evaluation mode: BatchNorm's statistics and dropout are each process's own."""
    loss = LOSSES[name]
    if name == "stage 1":
        return DenseStage(make_model(decoder=False, align=loss.align), loss).eval()
    return SparseStage(make_model(align=loss.align), loss).eval()


def make_batch(name: str) -> Batch:
    many = 2 if "two texts" in name else 1
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (BATCH, 16, 16, 3), dtype=np.uint8)
    # Padding differs between the halves.
    texts = [rng.integers(5, 60, size=n) for n in (9, 4, 6, 3, 5, 4) for _ in range(many)]
    index = torch.tensor([0, 1, 2, 3, 1, 5])  # an image seen by both processes
    teacher = torch.from_numpy(rng.standard_normal((BATCH, 32))).float()
    text = pad_texts(texts, pad_id=0)
    return Batch(
        torch.from_numpy(pixels), None, text, index, teacher, teacher_image=teacher.flip(0)
    )


def share(batch: Batch, rank: int) -> Batch:
    """What process `rank` of two sees."""
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    many = len(batch.text.lengths) // BATCH
    texts = slice(half.start * many, half.stop * many)
    lengths = batch.text.lengths[texts].tolist()
    rows = [row[:n].numpy() for row, n in zip(batch.text.ids[texts], lengths, strict=True)]
    assert batch.teacher is not None and batch.teacher_image is not None
    return replace(
        batch,
        pixels=batch.pixels[half],
        text=pad_texts(rows, pad_id=0),
        image_index=batch.image_index[half],
        teacher=batch.teacher[half],
        teacher_image=batch.teacher_image[half],
    )


def step(stage: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The loss and every gradient after one backward pass."""
    loss = stage(batch, epoch=2.0)["loss"]
    loss.backward()
    plain = stage.module if isinstance(stage, DistributedDataParallel) else stage
    assert isinstance(plain, nn.Module)
    grads = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **grads}


def run(rank: int, store: Path, out: Path) -> None:
    """What process `rank` of two does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {
        name: step(DistributedDataParallel(make_stage(name)), share(make_batch(name), rank))
        for name in LOSSES
    }
    torch.save(found, out)
    dist.barrier()
    # Gloo's threads may wait for the GIL that its destructor holds, for ever.
    os._exit(0)
