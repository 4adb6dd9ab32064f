"""`d2s serve` where it cannot start: one line that says why."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from pipelines.cli import run


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
