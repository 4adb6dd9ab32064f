"""Retries for requests that the Hub's client does not retry itself."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError

Say = Callable[[str], None]
T = TypeVar("T")
# Like the client's own retries.
_TRIES = 6
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_BACKOFF = 8.0


def retry(call: Callable[[], T], *, say: Say, done: Callable[[], T | None] | None = None) -> T:
    """The result of `call`, retried on temporary failures of the network or the Hub.

    Args:
        done: checked before a retry; its result replaces a lost response.

    Raises:
        Exception: the last error, or a permanent one.
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
    """Seconds until the next attempt, as requested by the Hub or growing; None to give up."""
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
    # One second more, since the Hub counts whole seconds.
    return int(asked) + 1.0 if asked.isdigit() else backoff


def _describe(error: HfHubHTTPError | httpx2.TransportError) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"the Hub answers {error.response.status_code}"
    return f"the Hub cannot be reached ({type(error).__name__})"
