"""A server of photos on the loopback, which also redirects, refuses, and serves as a proxy."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Photos(BaseHTTPRequestHandler):
    """/ok/N gives a photo, /busy/N only the second time, /gone/N never, /to/URL leads elsewhere.

    As a proxy it is asked for whole addresses, and answers by their path.
    """

    photos: list[bytes] = []
    seen: list[str] = []

    def do_GET(self) -> None:
        *_, kind, last = self.path.split("/")
        first = self.path not in self.seen
        self.seen.append(self.path)
        if kind == "gone":
            self.send_error(404)
        elif kind == "busy" and first:
            self.send_response(429)
            self.send_header("Retry-After", "0")
            self.end_headers()
        elif kind == "to":
            self.send_response(302)
            self.send_header("Location", unquote(last))
            self.end_headers()
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.photos[int(last)])

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serve_photos(photos: list[bytes]) -> Iterator[str]:
    """The address of a server of these photos, until the end of the block."""
    Photos.photos, Photos.seen = photos, []
    served = ThreadingHTTPServer(("127.0.0.1", 0), Photos)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()
