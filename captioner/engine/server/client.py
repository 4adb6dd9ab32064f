"""The talk with one server: bytes out, JSON in, and every way it fails told apart."""

import asyncio
import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from captioner.engine.server.address import KEY_VARIABLE, is_loopback
from data.errors import UserError

# A dense text takes a few kilobytes; more than this is no answer of a chat.
_MAX_ANSWER_BYTES = 4 * 2**20
_CONNECT_SECONDS = 10.0
# What a request may be told of itself: its image or its text cannot be taken.
OF_THE_REQUEST = (400, 413, 422)
# Of the server as a whole, and it passes: too many requests, loading, restarting.
PASSING = (408, 409, 425, 429, 502, 503, 504)
# No server means a longer pause than a day.
_LONGEST_PAUSE = 86_400.0


class ServerError(Exception):
    """No answer this time; the same request may have one later, or from another server.

    `counted` says that the request itself may be the cause, so that it is not asked for ever.
    `pause` is for how many seconds the server wants to be left alone, where it said so.
    `absent` says that no such server is there, which at a start is not waited for.
    """

    def __init__(
        self,
        reason: str,
        *,
        counted: bool = True,
        pause: float | None = None,
        absent: bool = False,
    ) -> None:
        super().__init__(reason)
        self.counted = counted
        self.pause = pause
        self.absent = absent


class RefusedError(Exception):
    """The server will not answer this request, however often it is asked."""


def check_status(
    status: int, headers: Mapping[str, str], content: bytes, *, address: str, key: str | None
) -> None:
    """Return for an answer that is one; `content` is what the server sent with the status.

    Raises:
        ServerError: try again later, or elsewhere.
        RefusedError: this request never.
        UserError: this server cannot be used as requested.
    """
    if 200 <= status < 300:
        return
    said = read_message(content, key=key)
    reason = f"HTTP {status}{': ' + said if said else ''}"
    if status in OF_THE_REQUEST:
        raise RefusedError(reason)
    if status in PASSING:
        raise ServerError(reason, counted=False, pause=parse_pause(headers.get("retry-after")))
    if status >= 500:
        raise ServerError(reason)
    if status in (401, 403):
        how = f"check the key in {KEY_VARIABLE}" if key else f"put its key into {KEY_VARIABLE}"
        raise UserError(f"{address} refuses access ({reason}): {how}")
    if 300 <= status < 400:
        where = clean_text(headers.get("location", "elsewhere"), key=key)
        raise UserError(
            f"{address} redirects to {where}: specify the address that answers with --server"
        )
    raise UserError(f"{address} rejects the request ({reason}): check --server and --model")


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


def parse_json(answer: bytes) -> Any:
    """What the JSON holds, with U+FFFD for halves of characters, which no file can hold.

    Raises ValueError or RecursionError if it is none.
    """
    found = json.loads(answer)
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        text = json.dumps(found, ensure_ascii=False).encode("utf-16", "surrogatepass")
        found = json.loads(text.decode("utf-16", "replace"))
    return found


def refuse_error(found: Any, *, key: str | None) -> None:
    """Raises ServerError for an error with the status of a success, as some gateways send it."""
    if isinstance(found, dict) and found.get("error"):
        code = found["error"].get("code") if isinstance(found["error"], dict) else None
        said = read_message(json.dumps(found).encode(), key=key)
        raise ServerError(f"an error instead of an answer: {said}", counted=code not in PASSING)


class ServerClient:
    """One server. Belongs to the event loop it is used in."""

    def __init__(self, address: str, *, key: str | None, connections: int, timeout: float) -> None:
        """`address` is a normalised one; `timeout` is for a whole answer, in seconds."""
        import httpx2

        self.address = address
        self._key = key
        self._timeout = timeout
        # The pool must never be what a request waits for.
        limits = httpx2.Limits(max_connections=connections + 4)
        headers = {"Accept-Encoding": "identity", "User-Agent": "d2s"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            follow_redirects=False,
            limits=limits,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            # With a transport of its own the client asks no proxy; none leads to this machine.
            transport=httpx2.AsyncHTTPTransport(limits=limits) if is_loopback(address) else None,
        )

    @property
    def root(self) -> str:
        """The address without its version, where vLLM says which one it is."""
        return self.address.rsplit("/", 1)[0]

    async def get(self, url: str) -> Any:
        """The JSON at `url`; raises as `post` does."""
        return await self._ask("GET", url, None)

    async def post(self, url: str, body: dict[str, Any]) -> Any:
        """The JSON that answers `body`.

        Raises:
            ServerError: unreachable, overloaded, cut off, too slow, or no JSON.
            RefusedError: the server does not take this body.
            UserError: it takes none.
        """
        return await self._ask("POST", url, json.dumps(body).encode())

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, method: str, url: str, content: bytes | None) -> Any:
        import httpx2

        try:
            async with asyncio.timeout(self._timeout):
                status, headers, answer = await self._exchange(method, url, content)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            reason = f"not reachable ({self._shorten(error)})"
            raise ServerError(reason, counted=False, absent=True) from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise ServerError(f"no answer within {self._timeout:g} s") from error
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise UserError(
                f"--server {self.address} has no valid host name ({self._shorten(error)})"
            ) from error
        except httpx2.HTTPError as error:
            raise ServerError(f"the connection broke ({self._shorten(error)})") from error
        check_status(status, headers, answer, address=self.address, key=self._key)
        try:
            found = parse_json(answer)
        except (ValueError, RecursionError) as error:
            raise ServerError("the answer is not JSON", absent=True) from error
        refuse_error(found, key=self._key)
        return found

    async def _exchange(
        self, method: str, url: str, content: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        request = self._client.stream(method, url, content=content, headers=headers)
        async with request as response:
            answer = bytearray()
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) > _MAX_ANSWER_BYTES:
                    raise ServerError(f"the answer is larger than {_MAX_ANSWER_BYTES >> 20} MiB")
            return response.status_code, dict(response.headers), bytes(answer)

    def _shorten(self, error: Exception) -> str:
        return clean_text(str(error) or type(error).__name__, key=self._key)
