"""HTTP requests to one server, with a distinction of every kind of failure."""

import asyncio
import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from captioner.engine.server.address import KEY_VARIABLE, is_loopback
from data.errors import UserError

# A dense text takes a few kilobytes; anything larger than this is not a chat answer.
_MAX_ANSWER_BYTES = 4 * 2**20
_CONNECT_SECONDS = 10.0
# Errors of a single request: its image or text is not accepted.
OF_THE_REQUEST = (400, 413, 422)
# Temporary errors of the server as a whole: too many requests, loading, restarting.
PASSING = (408, 409, 425, 429, 502, 503, 504)
# The message of a vLLM server whose engine has died, to all requests in flight.
_ENGINE_DIED = "EngineCore encountered an issue"
# Pauses of more than a day are not taken seriously.
_LONGEST_PAUSE = 86_400.0


class ServerError(Exception):
    """No answer; the same request may succeed later, or on another server.

    `counted` means that the request itself may be the cause, so that it is not repeated forever;
    `shared` that any other in flight at the server may be it as well.
    `pause` is the pause that the server requested, in seconds. `absent` means that there is no such
    server, so that the start does not wait for it.
    """

    def __init__(
        self,
        reason: str,
        *,
        counted: bool = True,
        shared: bool = False,
        pause: float | None = None,
        absent: bool = False,
    ) -> None:
        super().__init__(reason)
        self.counted = counted
        self.shared = shared
        self.pause = pause
        self.absent = absent


class RefusedError(Exception):
    """The server will never answer this request."""


def check_status(
    status: int, headers: Mapping[str, str], content: bytes, *, address: str, key: str | None
) -> None:
    """Return if the status is a success; `content` is the body of the response.

    Raises:
        ServerError: retry later, or on another server.
        RefusedError: never retry this request.
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
        raise ServerError(reason, shared=_ENGINE_DIED in said)
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
        # Numbers with more digits than a day has do not matter.
        return min(float(text[:9]), _LONGEST_PAUSE)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, moment - (time.time() if now is None else now)), _LONGEST_PAUSE)


def read_message(content: bytes, *, key: str | None) -> str:
    """The server's error message as one short line; "" if there is none."""
    text = content[:4096].decode("utf-8", "replace")
    try:
        found = json.loads(content)
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and name in found:
                found = found[name]
        text = found if isinstance(found, str) else json.dumps(found)
    except (ValueError, RecursionError):
        if text.lstrip().startswith("<"):
            return ""  # a page of a proxy
    return clean_text(text, key=key)


def clean_text(text: str, *, key: str | None = None) -> str:
    """One line of at most 300 printable characters, without the key."""
    if key:
        text = text.replace(key, "***")
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:300]


def parse_json(answer: bytes) -> Any:
    """Parse JSON, with U+FFFD for lone surrogates, which cannot be stored.

    Raises ValueError or RecursionError if it is invalid.
    """
    found = json.loads(answer)
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        text = json.dumps(found, ensure_ascii=False).encode("utf-16", "surrogatepass")
        found = json.loads(text.decode("utf-16", "replace"))
    return found


def refuse_error(found: Any, *, key: str | None) -> None:
    """Raise ServerError for an error with status 200, which some gateways send."""
    if isinstance(found, dict) and found.get("error"):
        code = found["error"].get("code") if isinstance(found["error"], dict) else None
        said = read_message(json.dumps(found).encode(), key=key)
        raise ServerError(f"an error instead of an answer: {said}", counted=code not in PASSING)


class ServerClient:
    """A client of one server, bound to the event loop in which it is used."""

    def __init__(self, address: str, *, key: str | None, connections: int, timeout: float) -> None:
        """`address` is normalized; `timeout` is for a complete answer, in seconds."""
        import httpx2

        self.address = address
        self._key = key
        self._timeout = timeout
        # Requests must never wait for the connection pool.
        limits = httpx2.Limits(max_connections=connections + 4)
        headers = {"Accept-Encoding": "identity", "User-Agent": "d2s"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            follow_redirects=False,
            limits=limits,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            # With an explicit transport the client uses no proxy; none leads to this machine.
            transport=httpx2.AsyncHTTPTransport(limits=limits) if is_loopback(address) else None,
        )

    @property
    def root(self) -> str:
        """The address without /v1, where vLLM reports its version."""
        return self.address.rsplit("/", 1)[0]

    async def get(self, url: str) -> Any:
        """The JSON at `url`; raises as `post` does."""
        return await self._ask("GET", url, None)

    async def post(self, url: str, body: dict[str, Any]) -> Any:
        """The JSON that answers `body`.

        Raises:
            ServerError: unreachable, overloaded, disconnected, too slow, or not JSON.
            RefusedError: the server does not accept this body.
            UserError: it accepts no requests.
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
            reason = f"the connection broke ({self._shorten(error)})"
            raise ServerError(reason, shared=True) from error
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
