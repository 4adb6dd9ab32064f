"""Several engines of one machine as one: one on each GPU, or on each core for a small model."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from captioner.engines.hosted import HostedEngine
from captioner.engines.protocol import Generation, Request

_WAIT_SECONDS = 0.01


class EnginePool:
    """Gives each image to the engine with the least to do.

    A text depends on its image and seed, not on the engine that writes it.
    """

    def __init__(self, starts: Sequence[Callable[[], HostedEngine]]) -> None:
        """Start all engines at once; `starts` has a function for each.

        Raises:
            UserError: one of them cannot be started; the others are ended.
        """
        self._engines: list[HostedEngine] = []
        failures: list[BaseException] = []

        def begin(start: Callable[[], HostedEngine]) -> None:
            try:
                self._engines.append(start())
            except BaseException as error:  # carried to the caller's thread and raised there
                failures.append(error)

        # Daemons: after Ctrl-C nobody waits for an engine to come up; it ends with its pipes.
        threads = [threading.Thread(target=begin, args=(s,), daemon=True) for s in starts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            self.close()
            raise failures[0]

    @property
    def name(self) -> str:
        return self._engines[0].name

    @property
    def window(self) -> int:
        return sum(engine.window for engine in self._engines)

    @property
    def pending(self) -> int:
        return sum(engine.pending for engine in self._engines)

    def submit(self, request: Request) -> None:
        # One that is being emptied has a window of 0, and is asked only if all are.
        open_ones = [engine for engine in self._engines if engine.window > 0] or self._engines
        least = min(open_ones, key=lambda engine: engine.pending / max(1, engine.window))
        least.submit(request)

    def collect(self) -> list[Generation]:
        done: list[Generation] = []
        for engine in self._engines:
            if engine.pending:
                done += engine.collect(wait=0.0)
        if not done:
            time.sleep(_WAIT_SECONDS)
        return done

    def describe(self) -> dict[str, Any]:
        return {**self._engines[0].describe(), "engines": len(self._engines)}

    def close(self) -> None:
        for engine in self._engines:
            engine.close()
