"""Ending the commands of a workflow: SIGTERM is passed on to them, so that they save their states.

Ctrl-C in a terminal reaches them without help; `kill` may only signal the workflow itself.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from data.signals import StopRequest


class RunningCommands(StopRequest):
    """The commands that run now. Within `with`, SIGINT and SIGTERM interrupt the main thread."""

    def __init__(self) -> None:
        super().__init__(working=False)
        self._ends: dict[object, Callable[[], None]] = {}

    @contextlib.contextmanager
    def watch(self, end: Callable[[], None]) -> Iterator[None]:
        """Within `with`, a command runs, and `end` sends SIGTERM to it.

        One that another thread starts after a signal ends at once.
        """
        key = object()
        self._ends[key] = end
        try:
            if self.asked:
                end()
            yield
        finally:
            del self._ends[key]

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self.asked and number == signal.SIGTERM:
            self.asked = True  # before the list is read, see `watch`
            for end in list(self._ends.values()):
                end()
            raise KeyboardInterrupt
        super()._hear(number, frame)
