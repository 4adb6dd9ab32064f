"""What can go wrong between a request and its answer, and whose fault it is."""

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from captioner.engine.server.address import KEY_VARIABLE
from data.errors import UserError

# What a request may be told of itself: its image or its text cannot be taken.
_OF_THE_REQUEST = (400, 413, 422)
# Of the server as a whole, and it passes: too many requests, loading, restarting.
_PASSING = (408, 409, 425, 429, 502, 503, 504)
# No server means a longer pause than a day.
_LONGEST_PAUSE = 86_400.0


class ServerError(Exception):
    """No answer this time; the same request may have one later, or from another server.

    `counted` says that the request itself may be the cause, so that it is not asked for ever.
    `pause` is for how many seconds the server wants to be left alone, where it said so.
    """

    def __init__(self, reason: str, *, counted: bool = True, pause: float | None = None) -> None:
        super().__init__(reason)
        self.counted = counted
        self.pause = pause


class RefusedError(Exception):
    """The server will not answer this request, however often it is asked."""


def check_status(
    status: int, headers: Mapping[str, str], content: bytes, *, address: str, key: str | None
) -> None:
    """Return for an answer that is one; `content` is what the server sent with the status.

    Raises:
        ServerError: try again later, or elsewhere.
        RefusedError: this request never.
        UserError: nothing can be had from this server as it is asked.
    """
    if 200 <= status < 300:
        return
    said = read_message(content, key=key)
    reason = f"HTTP {status}{': ' + said if said else ''}"
    if status in _OF_THE_REQUEST:
        raise RefusedError(reason)
    if status in _PASSING:
        raise ServerError(reason, counted=False, pause=parse_pause(headers.get("retry-after")))
    if status >= 500:
        raise ServerError(reason)
    if status in (401, 403):
        how = f"check the key in {KEY_VARIABLE}" if key else f"put its key into {KEY_VARIABLE}"
        raise UserError(f"{address} does not let us in ({reason}): {how}")
    if 300 <= status < 400:
        where = clean_text(headers.get("location", "elsewhere"), key=key)
        raise UserError(f"{address} sends us on to {where}: give --server the address that answers")
    raise UserError(f"{address} does not take the request ({reason}): check --server and --model")


def parse_pause(value: str | None, *, now: float | None = None) -> float | None:
    """Seconds of a Retry-After header, given in seconds or as a date; None if it says nothing.

    `now` is the time in seconds since 1970, by default the clock's.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        # Of more digits than a day has, the number does not matter.
        return min(float(text[:9]), _LONGEST_PAUSE)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, moment - (time.time() if now is None else now)), _LONGEST_PAUSE)


def read_message(content: bytes, *, key: str | None) -> str:
    """What a server says of its refusal, as one short line; "" if it says nothing readable."""
    text = content[:4096].decode("utf-8", "replace")
    try:
        found = json.loads(content)
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and name in found:
                found = found[name]
        text = found if isinstance(found, str) else json.dumps(found)
    except (ValueError, RecursionError):
        if text.lstrip().startswith("<"):
            return ""  # a page of some proxy's
    return clean_text(text, key=key)


def clean_text(text: str, *, key: str | None = None) -> str:
    """One line of at most 300 printable characters, without the key."""
    if key:
        text = text.replace(key, "***")
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:300]
