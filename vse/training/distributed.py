"""The processes that train together: how one starts, how they agree, and weights shared out.

Weights are shared out over the processes (FSDP2) where a tower does not fit one device. It is
switched on by Accelerate: `accelerate launch --use_fsdp --fsdp_version 2 -m pipelines.cli train
...`, or by its configuration file. What goes to disk is whole, as without it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedType,
    DynamoBackend,
    InitProcessGroupKwargs,
    TorchDynamoPlugin,
    broadcast,
)
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from data.errors import UserError
from vse.model.d2s import D2SModel

# While the main process validates or fills a cache, the others wait.
PATIENCE = timedelta(hours=6)


def start_accelerator(precision: str, **settings: Any) -> Accelerator:
    """Join the processes that the environment speaks of, or be the only one.

    Args:
        precision: "no", "bf16" or "fp16".
        settings: for `Accelerator`.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        # One process may train several runs, each with its own precision.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        mixed_precision=precision,
        # Accelerate lets processes on a CPU train together only if it is told so.
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        dynamo_backend="no",  # see compile_blocks
        **settings,
    )


def compile_blocks(stage: nn.Module) -> int:
    """Compile the backbones' repeated blocks, if `accelerate launch --dynamo_backend` asks for it.

    Only the blocks, as `--dynamo_use_regional_compilation` does, so that one compilation serves
    all of them. In place, since Accelerate's own way would change the names of the saved weights.

    Returns:
        How many blocks are compiled.
    """
    plugin = TorchDynamoPlugin()
    if plugin.backend == DynamoBackend.NO:
        return 0
    blocks = list(_find_blocks(stage))
    for block in blocks:
        block.compile(**plugin.to_kwargs())
    return len(blocks)


def _find_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of each list whose members are of one class, without those inside of them."""
    for child in module.children():
        kinds = {type(member) for member in child.children()}
        if isinstance(child, (nn.ModuleList, nn.Sequential)) and len(child) > len(kinds) == 1:
            yield from child
        else:
            yield from _find_blocks(child)


def end_process_group(accelerator: Accelerator) -> None:
    """Part from the other processes, when all have come to the end; NCCL complains otherwise."""
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        accelerator.state.destroy_process_group()


def any_process(accelerator: Accelerator, *flags: bool) -> tuple[bool, ...]:
    """Each flag, True on all processes where it is True on any."""
    if accelerator.num_processes == 1:
        return flags
    told = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    total: Any = accelerator.reduce(told, reduction="sum")
    return tuple(bool(value > 0) for value in total.tolist())


def broadcast_number(accelerator: Accelerator, value: float) -> float:
    """What the main process says, on all of them."""
    if accelerator.num_processes == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
    heard: Any = broadcast(told, from_process=0)
    return float(heard.item())


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether Accelerate was told to share the weights out."""
    return accelerator.distributed_type == DistributedType.FSDP


def name_blocks(accelerator: Accelerator, stage: nn.Module) -> None:
    """Tell Accelerate which modules are shared out one by one: the blocks of the backbones.

    Raises:
        UserError: FSDP of the first version, whose weights lie in one flat tensor.
    """
    if not accelerator.is_fsdp2:
        raise UserError(
            "FSDP version 1 is not supported: use --fsdp_version 2 with accelerate launch"
        )
    there = {type(module).__name__ for module in stage.modules()}
    named: set[str] = set()
    for module in stage.modules():
        named |= set(getattr(module, "_no_split_modules", None) or ()) & there
    stage._no_split_modules = sorted(named)  # type: ignore[assignment]


class WholeModel:
    """A model in one piece in the main process: the one that is evaluated and saved."""

    def __init__(self, accelerator: Accelerator, model: D2SModel) -> None:
        self.model = model
        if accelerator.is_main_process:
            self.model = copy.deepcopy(model).requires_grad_(False).to(accelerator.device)

    def gather(self, shared: D2SModel) -> D2SModel:
        """Bring the pieces together; every process has to ask for it."""
        state = {name: whole(value) for name, value in shared.state_dict().items()}
        if self.model is not shared:
            self.model.load_state_dict(state)
        return self.model


def whole(value: Tensor) -> Tensor:
    """All of a tensor of which each process has a part; others as they are."""
    if isinstance(value, DTensor):
        full: Tensor = value.full_tensor()
        return full
    return value


def share_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of `value`, if that is how `like` is kept."""
    if isinstance(like, DTensor) and value.shape == like.shape:
        on_device = value.to(like.device)
        return distribute_tensor(on_device, like.device_mesh, like.placements)
    return value


def refuse_average(accelerator: Accelerator, decay: float | None) -> None:
    """UserError for averaged weights of which each process has a part."""
    if decay is not None and is_sharded(accelerator):
        raise UserError("optim.ema and FSDP cannot be combined: omit one of them")
