"""An event loop in a separate thread, so that it also works in a notebook, which has its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import Any, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.2


class LoopThread:
    """Runs coroutines for synchronous code. Ends with `close`."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(
        self, coroutine: Coroutine[Any, Any, T], *, check: Callable[[], None] = lambda: None
    ) -> T:
        """Run a coroutine and return its result or raise its error.

        Ctrl-C cancels it, as does an error of `check`, which is called now and then.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            while not wait([future], timeout=_POLL_SECONDS).done:
                check()
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel running coroutines, and end the thread. Safe to call twice."""
        if self.loop.is_closed():
            return
        self.call(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> "LoopThread":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
