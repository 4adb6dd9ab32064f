"""A package index over HTTP, of the wheels in a folder; or one that never answers."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@contextmanager
def serve_index(folder: Path) -> Iterator[str]:
    """The address of an index of the wheels that lie in a folder when they are asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = unquote(self.path).strip("/").split("/")
            if parts[0] == "files" and (folder / parts[-1]).is_file():
                self._answer((folder / parts[-1]).read_bytes())
                return
            found = [path for path in folder.glob("*.whl") if _name(path) == parts[-1]]
            links = "".join(map(_link, found))
            self._answer(f"<html><body>{links}</body></html>".encode(), 200 if found else 404)

        def _answer(self, body: bytes, code: int = 200) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            """Nothing: the output is that of make."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serve_silence() -> Iterator[str]:
    """The address of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


def _link(wheel: Path) -> str:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f'<a href="/files/{wheel.name}#sha256={digest}">{wheel.name}</a>\n'


def _name(wheel: Path) -> str:
    return wheel.name.split("-")[0].replace("_", "-")
