"""BatchNorm inside a backbone sees the batches of all processes."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.processes import run_pair
from tests.vse.world import TINY
from vse.model.batch_norm import pause_statistics, share_statistics
from vse.model.build import assemble
from vse.model.collectives import gather
from vse.model.tokenizer.tokenizer import build as build_tokenizer
from vse.recipes import Recipe, build

BATCH = 6


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3),
        BatchNormAct2d(4),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.BatchNorm1d(5, affine=False, momentum=None),
        nn.Linear(5, 2),
    )


def make_batch() -> Tensor:
    return torch.randn(BATCH, 3, 6, 6, generator=torch.Generator().manual_seed(1)) + 1


def step(network: nn.Module, images: Tensor) -> None:
    gather(network(images)).square().sum().backward()


def run_half(rank: int, store: Path, out: Path) -> None:
    """What process `rank` of two does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    network = make_network()
    share_statistics(network)
    half = make_batch()[rank * BATCH // 2 : (rank + 1) * BATCH // 2]
    step(DistributedDataParallel(network), half)
    with pause_statistics(network):
        network(half)
    grads = {name: p.grad for name, p in network.named_parameters()}
    network.eval()
    torch.save({"grads": grads, "state": network.state_dict(), "eval": network(half)}, out)
    dist.barrier()
    # Gloo's threads may wait for the GIL that its destructor holds, for ever.
    os._exit(0)


def test_two_processes_have_the_statistics_of_one(tmp_path: Path) -> None:
    outs = run_pair(run_half, tmp_path)
    alone = make_network()
    step(alone, make_batch())
    grads = {name: p.grad for name, p in alone.named_parameters()}
    expected = alone.eval()(make_batch()).chunk(2)
    for out, half in zip(outs, expected, strict=True):
        found = torch.load(out, weights_only=True)
        torch.testing.assert_close(found["grads"], grads, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["state"], alone.state_dict())
        torch.testing.assert_close(found["eval"], half)


def test_the_backbones_of_a_run_share_their_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    network = {"config": {"library": "timm", "name": "test_resnet"}, "px": 32}
    recipe = build(Recipe, {**TINY, "image": network})
    tokenizer = build_tokenizer(["a red square"], vocab_size=100)
    kinds = []
    for count in (1, 2):
        monkeypatch.setattr("vse.model.batch_norm.process_count", lambda count=count: count)
        model = assemble(recipe, tokenizer=tokenizer, decoder=False)
        parts = model.image.backbone.modules()
        kinds.append({type(part).__name__ for part in parts if isinstance(part, nn.BatchNorm2d)})
    assert kinds[1] == {f"Shared{name}" for name in kinds[0]} and kinds[0]
