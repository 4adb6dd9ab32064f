"""Which server gets the next request. Pure: the time is always passed in."""

import random
from dataclasses import dataclass

_FIRST_REST, _LONGEST_REST = 0.5, 30.0
# Beyond this, doubling has no effect.
_MOST_DOUBLINGS = 10


@dataclass
class _Server:
    """One server as the balancer sees it; times in seconds of a monotonic clock."""

    in_flight: int = 0
    started: int = 0
    failures: int = 0
    backoff_until: float = 0.0
    asked_until: float = 0.0  # set by the server itself; a late success does not end it
    failing_since: float | None = None
    reason: str = ""


class Balancer:
    """Least busy first; a failed server is paused, then tested with one request.

    Each further failure doubles its pause.
    """

    def __init__(self, windows: list[int], *, patience: float, draw: random.Random) -> None:
        """`windows` is how many requests each server takes at once.

        `patience` is the number of seconds for which all may fail; `draw` randomizes pauses, so
        that servers that failed together do not return together.
        """
        self._windows = windows
        self._patience = patience
        self._draw = draw
        self._servers = [_Server() for _ in windows]
        # Kept for requests that must be alone.
        self._reserved: int | None = None

    def choose(self, now: float, *, alone: bool = False) -> int | None:
        """The server for the next request, which is counted; None if none has room.

        With `alone`, an empty one: the least busy server gets nothing else until it is empty.
        """
        rested = [
            (server.in_flight, server.started, index)
            for index, server in enumerate(self._servers)
            if max(server.backoff_until, server.asked_until) <= now
        ]
        if alone and self._reserved not in [index for *_, index in rested]:
            self._reserved = min(rested)[-1] if rested else None
        open_servers = [
            (in_flight, started, index)
            for in_flight, started, index in rested
            if alone is (index == self._reserved)
            and in_flight < (1 if alone else self._count_room(index))
        ]
        if not open_servers:
            return None
        index = min(open_servers)[-1]
        self._servers[index].in_flight += 1
        self._servers[index].started += 1
        return index

    def succeed(self, index: int) -> bool:
        """Record a success; True if the server had failed before."""
        server = self._end_request(index)
        recovered = server.failing_since is not None
        server.failures, server.failing_since, server.backoff_until = 0, None, 0.0
        return recovered

    def fail(self, index: int, now: float, *, reason: str, pause: float | None = None) -> bool:
        """Record a failure; True if the server had not failed before.

        `pause` is the pause that it requested, in seconds.
        """
        server = self._end_request(index)
        server.reason = reason
        first = server.failing_since is None
        if first:
            server.failing_since = now
        if now >= server.backoff_until:
            # Requests that were in flight when it failed count as one failure.
            server.failures += 1
            longest = _FIRST_REST * 2 ** min(server.failures - 1, _MOST_DOUBLINGS)
            rest = min(longest, _LONGEST_REST) * self._draw.uniform(0.5, 1.0)
            server.backoff_until = now + rest
        if pause is not None:
            # At least as long as requested, and randomized so that not all clients return at once.
            server.asked_until = max(server.asked_until, now + pause + self._draw.uniform(0, 0.1))
        return first

    def count_seconds(self, now: float) -> float | None:
        """Seconds until a pause or the patience ends; None if there is nothing to wait for."""
        moments = [max(server.backoff_until, server.asked_until) for server in self._servers]
        moments = [moment for moment in moments if moment > now]
        end = self._find_end()
        if end is not None:
            moments.append(end)
        return max(0.0, min(moments) - now) if moments else None

    def find_timeout(self, now: float) -> str | None:
        """Why the last server failed, if all have for longer than the patience; else None."""
        end = self._find_end()
        if end is None or now < end:
            return None
        last = max(self._servers, key=lambda server: server.failing_since or 0.0)
        return last.reason

    def _end_request(self, index: int) -> _Server:
        server = self._servers[index]
        server.in_flight -= 1
        if index == self._reserved and not server.in_flight:
            self._reserved = None
        return server

    def _count_room(self, index: int) -> int:
        # A failed server is tested with one request first.
        return 1 if self._servers[index].failing_since is not None else self._windows[index]

    def _find_end(self) -> float | None:
        """The time when patience ends; None while a server works or may still answer."""
        since = [server.failing_since for server in self._servers if not server.in_flight]
        if len(since) < len(self._servers) or None in since:
            return None
        return max(moment for moment in since if moment is not None) + self._patience
