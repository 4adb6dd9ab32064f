"""Waiting and asking again, for what the Hub's client asks only once."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError

Say = Callable[[str], None]
T = TypeVar("T")
# As the client itself does where it asks again.
_TRIES = 6
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_BACKOFF = 8.0


def retry(call: Callable[[], T], *, say: Say, done: Callable[[], T | None] | None = None) -> T:
    """What `call` returns, asked again while the network or the Hub fails in passing.

    Args:
        done: looked at before asking again; what it finds is taken for the lost answer.

    Raises:
        Exception: what the last try raised, or one that waiting does not help.
    """
    for tried in range(1, _TRIES):
        try:
            return call()
        except (HfHubHTTPError, httpx2.TransportError) as error:
            wait = find_wait(error, tried)
            if wait is None:
                raise
            say(f"{_describe(error)}: retrying in {wait:.0f} s")
        time.sleep(wait)
        if done is not None and (found := done()) is not None:
            return found
    return call()


def find_wait(error: Exception, tried: int) -> float | None:
    """Seconds until the next try, as the Hub asks for them or growing; None if it is no use."""
    backoff = min(2.0 ** (tried - 1), _LONGEST_BACKOFF)
    if not isinstance(error, HfHubHTTPError):
        return backoff
    if error.response.status_code not in _PASSING:
        return None
    headers = error.response.headers
    asked = headers.get("Retry-After", "").strip()
    if not asked.isdigit():
        found = re.search(r"\bt\s*=\s*(\d+)", headers.get("RateLimit", ""))
        asked = found[1] if found else ""
    # A second more: they count in whole ones.
    return int(asked) + 1.0 if asked.isdigit() else backoff


def _describe(error: HfHubHTTPError | httpx2.TransportError) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"the Hub answers {error.response.status_code}"
    return f"the Hub cannot be reached ({type(error).__name__})"
