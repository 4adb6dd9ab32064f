"""This machine: what runs may share on it, and what it is called."""

from __future__ import annotations

import os
import platform

from data.environment import count_cores


def count_gpus() -> int:
    """GPUs that torch sees."""
    import torch

    return torch.cuda.device_count()


def choose_workers(gpus: int) -> int:
    """One a GPU; without one, one a core: a second thread gains a small tower little."""
    return gpus or count_cores()


def share_threads(workers: int) -> int:
    """Threads for each of so many runs side by side."""
    return max(1, count_cores() // workers)


def name_machine() -> str:
    """A few words on what the figures were measured on."""
    cores = os.cpu_count()
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, {cores} processor cores"
    return f"{cores} {platform.machine()} processor cores, no GPU"
