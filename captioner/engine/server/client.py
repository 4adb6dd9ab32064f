"""The talk with one server: bytes out, JSON in, and every way it fails told apart."""

import asyncio
import json
from typing import Any

from captioner.engine.server.address import is_loopback
from captioner.engine.server.faults import ServerError, check_status, clean_text
from data.errors import UserError

# A dense text takes a few kilobytes; more than this is no answer of a chat.
_MAX_ANSWER_BYTES = 4 * 2**20
_CONNECT_SECONDS = 10.0


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
            raise ServerError(f"not reachable ({self._shorten(error)})", counted=False) from error
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
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise ServerError("the answer is not JSON") from error

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
