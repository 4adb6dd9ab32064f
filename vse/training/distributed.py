"""Distributed training: starting processes, synchronizing decisions, and sharded weights.

Weights are sharded over the processes (FSDP2) if a tower does not fit on one device. Accelerate
enables this: `accelerate launch --use_fsdp --fsdp_version 2 -m pipelines.cli train ...`, or its
configuration file. Saved files are the same as without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
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
from vse.recipes import OptimConfig

# The others wait while the main process validates or fills a cache.
PATIENCE = timedelta(hours=6)


def start_accelerator(precision: str, **settings: Any) -> Accelerator:
    """Join the processes described in the environment, or run as a single process.

    Args:
        precision: "no", "bf16" or "fp16".
        settings: for `Accelerator`.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        # One process can train several runs, each with its own precision.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        mixed_precision=precision,
        # Accelerate only supports several processes on a CPU if told so.
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
    """The members of module lists with a single class, without nested ones."""
    for child in module.children():
        kinds = {type(member) for member in child.children()}
        if isinstance(child, (nn.ModuleList, nn.Sequential)) and len(child) > len(kinds) == 1:
            yield from child
        else:
            yield from _find_blocks(child)


def choose_precision(optim: OptimConfig, report: Callable[[dict[str, Any]], None]) -> str:
    """Accelerate's name for the precision of a recipe on this machine.

    Args:
        report: receives a warning if a setting has no effect here.
    """
    found = _find_precision(optim.precision, report)
    if optim.clip_scaled and found != "fp16":
        text = "optim.clip_scaled has no effect without fp16: gradients are clipped as usual"
        report({"event": "warning", "text": text})
    return found


def _find_precision(precision: str, report: Callable[[dict[str, Any]], None]) -> str:
    gpu = torch.accelerator.is_available()
    if precision == "auto":
        # If bf16 is only emulated, fp16 is faster.
        real = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if real else "fp16" if gpu else "no"
    if precision == "fp16" and not gpu:
        report({"event": "warning", "text": "fp16 needs a GPU: training in fp32"})
        return "no"
    return {"fp32": "no"}.get(precision, precision)


def end_process_group(accelerator: Accelerator) -> None:
    """Release memory and leave the process group, if any; NCCL complains otherwise.

    The caller must have released the prepared modules. If one of them is the last to hold the
    group, its destructor waits for the threads of gloo while it holds the GIL, and they may need
    the GIL to end: the process would hang.
    """
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
    # Accelerate refers to itself; stage 2 may follow in this process and needs the memory.
    accelerator.free_memory()
    if accelerator.num_processes > 1:
        accelerator.state.destroy_process_group()


def any_process(accelerator: Accelerator, *flags: bool) -> tuple[bool, ...]:
    """Each flag, True on all processes if it is True on any."""
    if accelerator.num_processes == 1:
        return flags
    told = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    total: Any = accelerator.reduce(told, reduction="sum")
    return tuple(bool(value > 0) for value in total.tolist())


def broadcast_number(accelerator: Accelerator, value: float) -> float:
    """The main process's number, on all processes."""
    if accelerator.num_processes == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
    heard: Any = broadcast(told, from_process=0)
    return float(heard.item())


def refuse_different(accelerator: Accelerator, value: float, message: str) -> None:
    """UserError with `message`, on all processes, if one has another value than the main process.

    If only that one raised, the others would wait for it.
    """
    different = broadcast_number(accelerator, value) != value
    if any_process(accelerator, different)[0]:
        raise UserError(message)


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether Accelerate shards the weights."""
    return accelerator.distributed_type == DistributedType.FSDP


def name_blocks(accelerator: Accelerator, stage: nn.Module) -> None:
    """Tell Accelerate which modules to shard individually: the blocks of the backbones.

    Raises:
        UserError: FSDP version 1, which flattens weights into one tensor.
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
    """An unsharded model in the main process, which is evaluated and saved."""

    def __init__(self, accelerator: Accelerator, model: D2SModel) -> None:
        self.model = model
        if accelerator.is_main_process:
            self.model = copy.deepcopy(model).requires_grad_(False).to(accelerator.device)

    def gather(self, shared: D2SModel) -> D2SModel:
        """Gather the shards; must be called on every process."""
        state = {name: whole(value) for name, value in shared.state_dict().items()}
        if self.model is not shared:
            self.model.load_state_dict(state)
        return self.model


def whole(value: Tensor) -> Tensor:
    """The full tensor of a sharded one; other tensors unchanged."""
    if isinstance(value, DTensor):
        full: Tensor = value.full_tensor()
        return full
    return value


def share_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's shard of `value`, if `like` is sharded."""
    if isinstance(like, DTensor) and value.shape == like.shape:
        on_device = value.to(like.device)
        return distribute_tensor(on_device, like.device_mesh, like.placements)
    return value


def refuse_average(accelerator: Accelerator, decay: float | None) -> None:
    """UserError for averaged weights with sharding."""
    if decay is not None and is_sharded(accelerator):
        raise UserError("optim.ema and FSDP cannot be combined: omit one of them")
