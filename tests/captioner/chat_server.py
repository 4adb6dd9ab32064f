"""A server of chat completions on the loopback, without a model, that misbehaves when told to."""

import base64
import contextlib
import io
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

TEXT_TOKENS, IMAGE_TOKENS = 10, 64


@dataclass
class Reply:
    """What the server does with one request; None anywhere means as usual.

    `message` and `extra` are what its message and the answer hold beside, or instead of, the usual.
    `before` is called ahead of the answer and `midway` in the midst of it, and either may last.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    usage: bool = True
    message: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    image_tokens: int = IMAGE_TOKENS
    finish_reason: str = "stop"
    drop: bool = False
    before: Callable[[], object] = lambda: None
    midway: Callable[[], object] = lambda: None


# Given which image is asked for, and how often it was asked for here before.
Script = Callable[[int, int], Reply]


class ChatServer:
    """Listens from its start to its end (`with`). Each image is known by the colour of its corner.

    `first` are replies to the first requests of all, whatever they ask; `blank` is the one to those
    for a single token.

    `asked` and `told` are the images of all requests and of those with a text, in order; `most`
    is how many were in flight at once.
    """

    def __init__(self, script: Script | None = None, *, port: int = 0, **card: Any) -> None:
        self.script = script or (lambda image, times: Reply())
        self.card = {"id": "tiny", "object": "model", "owned_by": "somebody", **card}
        self.asked: list[int] = []
        self.told: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.most = 0
        self.first: list[Reply] = []
        self.blank = Reply()
        self.prefix = ""
        self._in_flight = 0
        self._lock = threading.Lock()
        self._server = _Listener(("127.0.0.1", port), _make_handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def decide(self, body: dict[str, Any]) -> tuple[Reply, dict[str, Any] | None]:
        """What to do, and the answer in full (None if there is none to give)."""
        image = read_image(body)
        if image is None or body["max_tokens"] == 1:
            return self.blank, make_answer(self.blank, None, image is not None)
        with self._lock:
            reply = self.script(image, self.asked.count(image))
            self.asked.append(image)
            self._in_flight += 1
            self.most = max(self.most, self._in_flight)
        reply.before()
        with self._lock:
            self._in_flight -= 1
            if reply.status == 200 and reply.body is None and not reply.drop:
                self.told.append(image)
        return reply, make_answer(reply, image, True)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.append(request)
        super().process_request(request, client_address)

    def server_close(self) -> None:
        """Connections that are kept alive end too, as those of a process that dies."""
        super().server_close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the play."""


def _make_handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.paths.append(self.path)
            if server.first:
                reply = server.first.pop(0)
                self._send(reply.status, reply.headers, reply.body or b"{}")
            elif self.path == f"{server.prefix}/v1/models":
                self._send(200, {}, json.dumps({"object": "list", "data": [server.card]}).encode())
            elif self.path == f"{server.prefix}/version":
                self._send(200, {}, b'{"version": "0.32.0"}')
            else:
                self._send(404, {}, b'{"detail": "Not Found"}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.paths.append(self.path)
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            reply, answer = server.decide(body)
            if server.first:
                reply = server.first.pop(0)
            content = reply.body if reply.body is not None else json.dumps(answer).encode()
            if reply.drop:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self._send(reply.status, reply.headers, content, reply.midway)

        def _send(
            self,
            status: int,
            headers: dict[str, str],
            content: bytes,
            midway: Callable[[], object] = lambda: None,
        ) -> None:
            self.send_response(status)
            headers = {"Content-Type": "application/json", **headers}
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            half = len(content) // 2
            self.wfile.write(content[:half])
            midway()
            self.wfile.write(content[half:])

        def log_message(self, *_: object) -> None:
            """Not among the tests' output."""

    return Handler


def make_answer(reply: Reply, image: int | None, seen: bool) -> dict[str, Any]:
    """The chat completion about an image; `seen` if there was any."""
    answer: dict[str, Any] = {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": f" Image {image}.", **reply.message},
                "finish_reason": reply.finish_reason,
            }
        ]
    }
    if reply.usage:
        tokens = TEXT_TOKENS + (reply.image_tokens if seen else 0)
        answer["usage"] = {"prompt_tokens": tokens, "completion_tokens": 4}
    return answer | reply.extra


def read_image(body: dict[str, Any]) -> int | None:
    """The number in the corner of the picture that was sent."""
    (message,) = body["messages"]
    for part in message["content"]:
        if part["type"] == "image_url":
            prefix, _, encoded = part["image_url"]["url"].partition(",")
            assert prefix == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as image:
                assert image.mode == "RGB"
                red, green, blue = image.getpixel((0, 0))  # type: ignore[misc]
                return int(red) * 65536 + int(green) * 256 + int(blue)
    return None
