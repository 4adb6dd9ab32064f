"""Ctrl-C and SIGTERM as a request to stop at the next step, so that finished work can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopRequest:
    """Within `with`, the first signal sets `asked`, and a second SIGINT interrupts.

    A second SIGTERM is ignored: systemd, Slurm and `timeout` send it to all processes, and some of
    these pass it on to each other. While `working` is false there is nothing to save, and the first
    signal already interrupts.
    """

    def __init__(self, *, working: bool = True, on_ask: Callable[[], None] = lambda: None) -> None:
        """`on_ask` is called at the first signal, for a message."""
        self.asked = False
        self.working = working
        self._on_ask = on_ask
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python only lets the main thread handle signals; elsewhere they stay as they are.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGTERM:
            return
        again, self.asked = self.asked, True
        if again or not self.working:
            raise KeyboardInterrupt
        self._on_ask()
