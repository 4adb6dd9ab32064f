"""A stop that is requested while an engine starts, which can take minutes.

A context variable, because functions that only build an engine would have to pass it on otherwise.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_STOP: ContextVar[Callable[[], bool]] = ContextVar("stop", default=lambda: False)


class StoppedError(Exception):
    """A stop was requested before the engine was up."""


@contextlib.contextmanager
def heeding(stop: Callable[[], bool]) -> Iterator[None]:
    """Engines that start within `with` give up once `stop` says so."""
    token = _STOP.set(stop)
    try:
        yield
    finally:
        _STOP.reset(token)


def check_stop() -> None:
    """Raise StoppedError if a stop was requested."""
    if _STOP.get()():
        raise StoppedError
