"""How many processor cores this process may use."""

import os


def count_cores() -> int:
    """Those of its affinity, as containers and schedulers set it; all where there is no such thing.

    macOS has none.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
