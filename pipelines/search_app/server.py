"""Serving a page until a signal ends it."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import fastapi
import uvicorn
from starlette.routing import Mount

from pipelines.search_app.address import is_local
from pipelines.search_app.gradio_import import UPLOADS, gr
from pipelines.search_app.middleware import RouteFilter
from pipelines.search_app.page import STYLE, make_theme

# A photo of 100 megapixels, the limit of `data.images`, is rarely this large.
MOST_BYTES = 32 * 1024 * 1024
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run_server(
    page: gr.Blocks, opened: socket.socket, *, host: str, on_ready: Callable[[str], None]
) -> None:
    """Serve the page at an open socket until SIGINT or SIGTERM.

    Args:
        host: as given by the user. If it is local, requests for other names are refused.
        on_ready: called with the address once the server answers.
    """
    port = opened.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    names = dict.fromkeys((*_LOOPBACK, host)) if is_local(host) else None
    app = _make_app(page)
    guarded = RouteFilter(app, uploads=UPLOADS.name, most_bytes=MOST_BYTES + 2**20, names=names)
    config = uvicorn.Config(
        guarded, log_level="error", access_log=False, ws="none", timeout_graceful_shutdown=1
    )
    server = _Server(
        config,
        on_ready=lambda: on_ready(f"http://{shown}:{port}"),
        on_stop=lambda: _end_streams(app),
    )
    server.run(sockets=[opened])


def _make_app(page: gr.Blocks) -> fastapi.FastAPI:
    """The page as an app without Gradio's footer, history, own server and so on."""
    app = gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=make_theme(),
        css=STYLE,
    )
    # Only set by `launch`, which starts its own server. Without them, Gradio 6.31 treats any file
    # named by a client as an upload, and copies it to where it is served.
    page.has_launched = page.is_running = True
    return app


def _end_streams(app: fastapi.FastAPI) -> None:
    """Close the connections of all open pages."""
    for route in app.routes:
        if isinstance(route, Mount) and isinstance(route.app, gr.routes.App):
            route.app.stop_event.set()


class _Server(uvicorn.Server):
    """Ends quietly at the first signal, which is not a failure for a server."""

    def __init__(
        self, config: uvicorn.Config, *, on_ready: Callable[[], None], on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        # Interrupting requests in flight is intended.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before: dict[int, Any] = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
