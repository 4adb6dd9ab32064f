"""This machine: shared resources, and its description."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from data.environment import count_cores

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def count_gpus() -> int:
    """The number of GPUs that torch sees."""
    import torch

    return torch.cuda.device_count()


def name_gpus(count: int) -> list[str]:
    """The names, for CUDA_VISIBLE_DEVICES, of the GPUs that torch counts: the first valid ones."""
    named = os.environ.get(VISIBLE_GPUS)
    names = map(str, range(count)) if named is None else map(str.strip, named.split(","))
    return list(names)[:count]


def choose_workers(gpus: int) -> int:
    """One worker per GPU, or else per core: a second thread hardly helps a small tower."""
    return gpus or count_cores()


def share_threads(workers: int) -> int:
    """Threads per run for this number of concurrent runs."""
    return max(1, count_cores() // workers)


def name_machine() -> str:
    """A short description of the machine for measured figures."""
    cores = os.cpu_count()
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, {cores} processor cores"
    return f"{cores} {platform.machine()} processor cores, no GPU"


def name_processor() -> str:
    """The processor's model: seconds of different models cannot be compared."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(errors="replace") if info.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()
