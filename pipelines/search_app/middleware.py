"""Request filtering: only the page's own requests, with an allowed host name.

Gradio has many more routes than the page uses: they fetch URLs, call functions as an API, keep
histories. They all return 404. Requests from other sites, by DNS rebinding or cross-origin posts,
are refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)"
    r"|/(assets|static)/[\w./-]+"
    r"|/gradio_api/(queue/data|upload_progress|startup-events|heartbeat/\w+)"
)
_WRITE = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset)/?")
_FILE = "/gradio_api/file="
# Gradio's scripts come from its own server, are inline, and use eval.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'self'",
        "form-action 'none'",
    ]
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class RouteFilter:
    """ASGI middleware for the app of a page."""

    def __init__(
        self, app: ASGIApp, *, uploads: str, most_bytes: int, names: Collection[str] | None
    ) -> None:
        """
        Args:
            uploads: the folder of uploads, which can be downloaded again.
            most_bytes: maximum size of a request.
            names: allowed host names; None for any, behind a proxy that checks.
        """
        self._app = app
        self._files = f"{_FILE}{uploads}/"
        self._most_bytes = most_bytes
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it to the app."""
        if scope["type"] == "http":
            refused = self._refuse(scope)
            if refused is not None:
                await _answer(send, *refused)
                return
        elif scope["type"] != "lifespan":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, send_guarded)

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason of a refusal."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        called = _name_of(f"//{headers.get('host', '')}")
        if self._names is not None:
            if called not in self._names:
                return 403, f"this server answers to {' and '.join(self._names)} alone\n"
            origin = headers.get("origin")
            if origin is not None and _name_of(origin) not in self._names:
                return 403, "a page of another site asked\n"
        if not self._is_ours(scope["method"], scope["path"]):
            return 404, "there is nothing here\n"
        if scope["method"] == "POST":
            return self._refuse_large(headers)
        return None

    def _is_ours(self, method: str, path: str) -> bool:
        if method == "POST":
            return _WRITE.fullmatch(path) is not None
        if method not in ("GET", "HEAD"):
            return False
        if path.startswith(_FILE):
            return path.startswith(self._files) and ".." not in path.split("/")
        return _READ.fullmatch(path) is not None and ".." not in path.split("/")

    def _refuse_large(self, headers: dict[str, str]) -> tuple[int, str] | None:
        length = headers.get("content-length", "")
        # A body in chunks has any length, whatever length is said as well.
        if not length.isdecimal() or "transfer-encoding" in headers:
            return 411, "say how long it is\n"
        if int(length) > self._most_bytes:
            return 413, f"more than {self._most_bytes:,} bytes\n"
        return None


def _name_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


async def _answer(send: Send, status: int, reason: str) -> None:
    body = reason.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *_HEADERS,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
