"""The processes that train together: how one starts, and how they come to agree."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast

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
        **settings,
    )


def leave(accelerator: Accelerator) -> None:
    """Part from the other processes, when all have come to the end; NCCL complains otherwise."""
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        accelerator.state.destroy_process_group()


def agree(accelerator: Accelerator, *flags: bool) -> tuple[bool, ...]:
    """Each flag, True on all processes where it is True on any."""
    if accelerator.num_processes == 1:
        return flags
    told = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    total: Any = accelerator.reduce(told, reduction="sum")
    return tuple(bool(value > 0) for value in total.tolist())


def share_number(accelerator: Accelerator, value: float) -> float:
    """What the main process says, on all of them."""
    if accelerator.num_processes == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
    heard: Any = broadcast(told, from_process=0)
    return float(heard.item())
