"""Downloading images by URL, and which URLs are allowed."""

import http.client
import io
import ipaddress
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from data.images import MAX_FILE_BYTES, ImageError, Status

_TRIES, _TIMEOUT_SECONDS = 4, 15.0
# A server that was silent for this long twice is not tried a third time.
_SILENT_TRIES = 2
# Of one attempt, however slowly data arrives.
_MOST_SECONDS = 60.0
# Worth a retry: too many requests, and errors of overloaded servers.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT_SECONDS = 15.0
# Characters that a URL may contain unescaped.
_SAFE = "%/:=&?~#+!$,;'@()*[]"


def is_url(text: str) -> bool:
    """Whether it is an http or https URL; no other schemes are fetched."""
    return text[:8].lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class WebAddress:
    """The URL of an image, which may take long to fetch; `named` as in `fetch_url`."""

    url: str
    named: bool

    def fetch(self) -> bytes:
        """Its bytes. Raises ImageError."""
        return fetch_url(self.url, named=self.named)


def fetch_url(url: str, *, named: bool) -> bytes:
    """Download one image; temporary failures (429, 5xx, a lost connection) are retried.

    Args:
        named: the user gave this URL. URLs in a table's rows or in redirects must not lead into a
            private network (this machine, a cloud's metadata service), since a description of what
            is there would be published.

    Raises:
        ImageError: no image is available there.
    """
    _refuse_other_schemes(url)
    try:
        url = urllib.parse.quote(url.strip(), safe=_SAFE, errors="surrogateescape")
        request = urllib.request.Request(url, headers={"User-Agent": "d2s-vse"})
        opener = _make_opener(trusted=_read_place(url) if named else None)
    except ValueError as error:
        raise ImageError(Status.DECODE_ERROR, f"cannot be fetched: {error}") from error
    tries = _TRIES
    for attempt in range(1, _TRIES + 1):
        wait = min(_LONGEST_WAIT_SECONDS, 0.5 * 2**attempt)
        try:
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                content: bytes = answer.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ImageError(
                    Status.TOO_LARGE, f"larger than the limit of {MAX_FILE_BYTES:,} bytes"
                )
            return content
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code not in _PASSING:
                break
            wait = _read_retry_after(error, wait)
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            reason = " ".join(str(cause).split()) or type(error).__name__
            # An overloaded server needs a longer pause than a lost connection.
            wait /= 2
            if isinstance(cause, TimeoutError):
                tries = _SILENT_TRIES
        if attempt >= tries:
            break
        time.sleep(wait)
    raise ImageError(Status.DECODE_ERROR, f"cannot be fetched: {reason}")


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet."""
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_global and not found.is_multicast


def _refuse_other_schemes(url: str) -> None:
    """file: and ftp: URLs could read files of this machine."""
    if not is_url(url):
        raise ImageError(Status.DECODE_ERROR, "only http and https URLs are fetched")


def _refuse_private(address: str) -> None:
    if not is_public(address):
        raise ImageError(
            Status.DECODE_ERROR,
            f"leads into a private network ({address}): only addresses from a list (.txt) are "
            "fetched there",
        )


class _TimedStream(io.RawIOBase):
    """A server's response, within the time limit of one attempt."""

    def __init__(self, inner: io.RawIOBase, sock: socket.socket) -> None:
        self._inner, self._sock = inner, sock
        self._deadline = time.monotonic() + _MOST_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"it took more than {_MOST_SECONDS:.0f} s")
        self._sock.settimeout(min(_TIMEOUT_SECONDS, left))
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._inner.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedStream(self.fp.detach(), sock))


class _Connection(http.client.HTTPConnection):
    response_class = _TimedResponse


class _SafeConnection(http.client.HTTPSConnection):
    response_class = _TimedResponse


class _CheckedConnection(_Connection):
    """Checks the peer's IP address before sending anything, so that DNS cannot deceive it."""

    def connect(self) -> None:
        super().connect()
        try:
            _refuse_private(self.sock.getpeername()[0])
        except ImageError:
            self.close()
            raise


class _CheckedSafeConnection(_SafeConnection, _CheckedConnection):
    """The same over TLS; the inner `connect` is the one that looks."""


class _CheckedHandler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections, without the check only to `trusted` (host and port)."""

    def __init__(self, trusted: str | None) -> None:
        urllib.request.HTTPSHandler.__init__(self)
        self._trusted = trusted

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        checked = self._is_checked(req)
        return self.do_open(_CheckedConnection if checked else _Connection, req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        checked = self._is_checked(req)
        kind = _CheckedSafeConnection if checked else _SafeConnection
        return self.do_open(kind, req)

    def _is_checked(self, request: urllib.request.Request) -> bool:
        place = _read_place(request.full_url)
        if place == self._trusted:
            return False
        if request.host == place:
            return True
        # Through a proxy, which is usually in a private network itself and resolves the name.
        for address in _resolve(urllib.parse.urlsplit(request.full_url).hostname or ""):
            _refuse_private(address)
        return False


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _refuse_other_schemes(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _make_opener(*, trusted: str | None) -> urllib.request.OpenerDirector:
    """urllib's opener, without the handlers of other schemes."""
    opener = urllib.request.OpenerDirector()
    handlers: list[Any] = [
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _CheckedHandler(trusted),
        urllib.request.HTTPDefaultErrorHandler(),
        _CheckedRedirects(),
        urllib.request.HTTPErrorProcessor(),
    ]
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _read_place(url: str) -> str:
    """Host and port as urllib understands them."""
    return urllib.parse.unquote(urllib.parse.urlsplit(url).netloc)


def _resolve(host: str) -> list[str]:
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except OSError:
        # Only the proxy may be able to resolve it.
        return []


def _read_retry_after(error: urllib.error.HTTPError, otherwise: float) -> float:
    asked = error.headers.get("Retry-After", "")
    return min(_LONGEST_WAIT_SECONDS, float(asked)) if asked.isdecimal() else otherwise
