"""`d2s serve` where it cannot start: one line that says why. And requests that it refuses."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pipelines.cli import run
from pipelines.search_app.middleware import RouteFilter
from tests.waiting import HANG_SECONDS, wait_until


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert run(["serve", "--index", str(tmp_path / "x"), "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"port {port} of 127.0.0.1" in said and "--port" in said


def test_an_address_of_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--index", "x", "--host", "203.0.113.7", "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("d2s: error: cannot listen at 203.0.113.7") and said.count("\n") == 1


def test_without_gradio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in [name for name in sys.modules if name.startswith("pipelines.search_app.")]:
        monkeypatch.delitem(sys.modules, name)
    assert run(["serve", "--index", "x", "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert "pip install" in said and "'gradio" in said and said.count("\n") == 1


@pytest.mark.parametrize("parser", ["h11", "httptools"])
@pytest.mark.parametrize("length", ["Content-Length: 10\r\n", ""])
def test_a_body_in_chunks_does_not_pass_the_limit(parser: Any, length: str) -> None:
    """It has no length, whatever the request says."""
    passed: list[str] = []

    async def note(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["path"])

    names = ["127.0.0.1"]
    guarded = RouteFilter(note, uploads="/uploads", most_bytes=100, names=names)
    config = uvicorn.Config(guarded, http=parser, ws="none", lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    with socket.create_connection(listening.getsockname(), timeout=HANG_SECONDS) as client:
        head = "POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        chunk = f"{200:x}\r\n{'x' * 200}\r\n0\r\n\r\n"
        client.sendall(f"{head}{length}Transfer-Encoding: chunked\r\n\r\n{chunk}".encode())
        answer = client.recv(4096).decode()
    server.should_exit = True
    thread.join(timeout=HANG_SECONDS)
    assert answer.split()[1] in ("400", "411") and not passed
