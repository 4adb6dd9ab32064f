"""What the Hub's client has to say, as our lines: its own show signed addresses in full."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from pipelines.hub.errors import shorten


@contextlib.contextmanager
def tell_of_library(say: Callable[[str], None]) -> Iterator[None]:
    """Pass the client's warnings to `say`, a line each and without secrets, while entered."""
    logger = logging.getLogger("huggingface_hub")
    handler = _Teller(say)
    before, propagated = list(logger.handlers), logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagated


class _Teller(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(shorten(record.getMessage()))
