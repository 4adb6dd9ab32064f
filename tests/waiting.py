"""Waiting for a thing itself, however long a busy machine takes over it.

The clock decides nothing but when a hang is given up, a little before pytest's own `timeout`.
"""

import itertools
import threading
import time
from collections.abc import Callable

HANG_SECONDS = 1000.0
_POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], object]) -> None:
    """Look again and again until `condition` holds."""
    deadline = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(_POLL_SECONDS)


def meet(count: int) -> Callable[[], None]:
    """A call for threads: the first `count` wait for each other, all later ones do not wait."""
    barrier, calls = threading.Barrier(count), itertools.count()

    def arrive() -> None:
        if next(calls) < count:
            barrier.wait(HANG_SECONDS)

    return arrive
