"""What runs may share on this machine."""

from __future__ import annotations

from data.cores import count_cores


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
