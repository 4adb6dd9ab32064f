"""What runs may share on this machine."""

from __future__ import annotations

import os


def count_gpus() -> int:
    """GPUs that torch sees."""
    import torch

    return torch.cuda.device_count()


def choose_workers(gpus: int) -> int:
    """One a GPU; without one, one a core: a second thread gains a small tower little."""
    return gpus or os.cpu_count() or 1


def share_threads(workers: int) -> int:
    """Threads for each of so many runs side by side."""
    return max(1, (os.cpu_count() or 1) // workers)
