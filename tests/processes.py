"""Processes for tests that need more than one.

They are forked from a server that has imported torch and nothing else. Forked from the tests
themselves they would inherit whatever locks the threads of earlier tests held, and hang.
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

from tests.waiting import HANG_SECONDS

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["torch", "accelerate", "transformers", "vse.training.run"])


def run_pair(work: Callable[[int, Path, Path], None], folder: Path) -> list[Path]:
    """Run `work(rank, store, out)` in two processes, which meet at `store`; returns their files."""
    outs = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        FORK.Process(target=work, args=(rank, folder / "store", out))
        for rank, out in enumerate(outs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=HANG_SECONDS)
    assert [process.exitcode for process in processes] == [0, 0]
    return outs
