"""Starting an engine process, the first one or a successor, without blocking the others.

Nothing here blocks: the owner polls, and can stop polling at any time.
"""

import time
from collections.abc import Callable
from typing import Any

from captioner.engine.process import EngineEndedError, EngineProcess
from data.errors import UserError

# Pauses before retries, in seconds. GPU memory is only free some time after its process is gone,
# and failures of file systems and drivers are often temporary.
PAUSES = (5.0, 20.0, 60.0)
# A process that hangs in a driver takes time to end; one that never ends is ignored.
_END_SECONDS = 30.0


class Restart:
    """Ends the old process, if any, and starts the next one, with a few retries."""

    def __init__(
        self,
        ended: EngineProcess | None,
        start: Callable[[], EngineProcess],
        *,
        start_seconds: float,
        on_retry: Callable[[str, float], None],
    ) -> None:
        """`start` starts a process, which is abandoned if not ready after `start_seconds`.

        `on_retry` receives the reason of a failure and the seconds until the next attempt.
        """
        self._start = start
        self._start_seconds = start_seconds
        self._on_retry = on_retry
        self._process: EngineProcess | None = None
        self._is_first = ended is None
        # The engine's description of itself, once it is ready.
        self.ready: dict[str, Any] = {}
        self.tries = 0
        self._end(ended, pause=0.0)

    def poll(self, wait: float) -> EngineProcess | None:
        """The new process once its engine is ready, after waiting at most `wait` seconds.

        Raises:
            EngineEndedError: the last attempt failed too; the message is the engine's own, or says
                how its process ended.
            UserError: the engine never ran, and reports an error that a retry does not fix.
        """
        try:
            if self._process is None:
                self._begin_when_due(wait)
            elif (ready := self._process.find_ready(wait)) is not None:
                self.ready = ready
                return self._process
            elif time.monotonic() > self._ready_by:
                raise EngineEndedError(f"it was not ready after {self._start_seconds:.0f} s")
        except (EngineEndedError, UserError, OSError) as error:
            if self._is_first and isinstance(error, UserError):
                raise
            self._fail(str(error))
        return None

    def cancel(self) -> None:
        """Stop what was started."""
        if self._process is not None:
            self._process.end()

    def _begin_when_due(self, wait: float) -> None:
        now = time.monotonic()
        going = self._ended is not None and now < self._gone_by and not self._ended.is_gone()
        if now < self._due or going:
            time.sleep(wait)
            return
        self.tries += 1
        self._ready_by = now + self._start_seconds
        self._process = self._start()

    def _fail(self, reason: str) -> None:
        if self.tries > len(PAUSES):
            self.cancel()
            raise EngineEndedError(reason)
        pause = PAUSES[self.tries - 1]
        self._end(self._process or self._ended, pause=pause)
        self._process = None
        self._on_retry(reason, pause)

    def _end(self, process: EngineProcess | None, *, pause: float) -> None:
        if process is not None:
            process.kill()
        now = time.monotonic()
        self._ended, self._gone_by, self._due = process, now + _END_SECONDS, now + pause
