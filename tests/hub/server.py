"""The stand-in as a server: it reads requests, lets faults happen, and sends what routes answer."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.faults import Faults
from tests.hub.messages import Answer, RefusedError, Request
from tests.hub.routes import ROUTES
from tests.hub.state import Hub
from tests.waiting import HANG_SECONDS


class HubServer:
    """Listens while it is entered (`with`). `requests` are the lines it was asked, in order."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.faults = Faults()
        self.requests: list[str] = []
        self._server = _Listener(("127.0.0.1", 0), _make_handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, home: Path, *, token: str | None = None) -> dict[str, str]:
        """What a process needs to take this for the Hub; its caches lie in `home`."""
        return {
            **({"HF_TOKEN": token} if token is not None else {}),
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": f"{HANG_SECONDS:.0f}",
            "HF_HUB_DOWNLOAD_TIMEOUT": f"{HANG_SECONDS:.0f}",
            # Counted at another host.
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def answer(self, request: Request, path: str) -> Answer:
        """What the routes say."""
        for pattern, route in ROUTES:
            found = pattern.fullmatch(f"{request.method} {path}")
            if found is not None:
                parts = {name: unquote(part) for name, part in found.groupdict().items() if part}
                with self.hub.lock:
                    try:
                        return route(self.hub, _with_parts(request, parts))
                    except RefusedError as refusal:
                        return refusal.answer
        return RefusedError(404, "NotFound", f"the stand-in has no {request.method} {path}").answer

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    # Connections that clients keep open are not waited for.
    block_on_close = False


def _with_parts(request: Request, parts: dict[str, str]) -> Request:
    return Request(
        request.method, parts, request.query, request.headers, request.body, request.endpoint
    )


def _make_handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            line = f"{self.command} {self.path}"
            server.requests.append(line)
            fault = server.faults.take(line)
            if fault is not None and fault.what == "drop":
                self.close_connection = True
                return
            body = self.read_body()
            if fault is not None and fault.what == "refuse":
                self.send(Answer(b"", fault.status, fault.headers))
                return
            url = urlsplit(self.path)
            request = Request(
                self.command, {}, parse_qs(url.query), self.headers, body, server.endpoint
            )
            answer = server.answer(request, url.path)
            if fault is not None:
                self.close_connection = True
                return
            self.send(answer)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one  # noqa: N815

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                # Whoever has gone needs no answer.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler
