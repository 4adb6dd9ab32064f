"""Waiting for a server's first answer, by the same rule as during a run."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from captioner.engine.server.balancer import Balancer
from captioner.engine.server.client import ServerError

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Patience:
    """How long a server may be overloaded before its first answer, and whom to tell."""

    seconds: float
    on_event: Say

    async def ask(self, address: str, question: Callable[[], Awaitable[T]]) -> T:
        """The answer, with retries while the server may recover.

        Raises as `question` does.
        """
        balancer = Balancer([1], patience=self.seconds, draw=random.Random())
        clock = asyncio.get_running_loop().time
        while True:
            if balancer.choose(clock()) is None:
                await asyncio.sleep(balancer.count_seconds(clock()) or 0.0)
                continue
            try:
                return await question()
            except ServerError as error:
                first = balancer.fail(0, clock(), reason=str(error), pause=error.pause)
                if error.absent or balancer.find_timeout(clock()) is not None:
                    raise
                if first:
                    self.on_event(f"{address} rests: {error}")
