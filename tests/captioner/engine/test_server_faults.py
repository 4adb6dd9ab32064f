"""What servers say of failures: pauses, messages, and whose fault a status is."""

import pytest

from captioner.engine.server.address import is_loopback, normalise_addresses, read_key
from captioner.engine.server.client import (
    RefusedError,
    ServerError,
    check_status,
    parse_pause,
    read_message,
)
from data.errors import UserError

# 2026-11-24 22:00:00 GMT
NOW = 1795557600.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Tue, 24 Nov 2026 22:00:42 GMT", 42.0),
        ("Tue, 24 Nov 2026 21:00:00 GMT", 0.0),
        ("Tuesday, 24-Nov-26 22:01:00 GMT", 60.0),
        ("9" * 5000, 86_400.0),
        ("Fri, 01 Jan 9999 00:00:00 GMT", 86_400.0),
        ("-3", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_pauses(value: str | None, seconds: float | None) -> None:
    assert parse_pause(value, now=NOW) == seconds


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'{"error": {"message": "no\\nroom", "code": 400}}', "no room"),
        (b'{"error": "model not loaded"}', "model not loaded"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"message": "a key sk-secret"}', "a key ***"),
        (b'{"detail": [{"loc": ["seed"], "msg": "no"}]}', '[{"loc": ["seed"], "msg": "no"}]'),
        (b"plain text", "plain text"),
        (b"<html><body>502</body></html>", ""),
        (b"", ""),
        (b"\xff\x00", "\ufffd?"),
        (b"[" * 100_000, "[" * 300),
        (b'"' + b"x" * 1000 + b'"', "x" * 300),
    ],
)
def test_messages(content: bytes, line: str) -> None:
    assert read_message(content, key="sk-secret") == line


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RefusedError), (413, RefusedError), (422, RefusedError), (408, ServerError)]
    + [(429, ServerError), (500, ServerError), (503, ServerError), (529, ServerError)]
    + [(301, UserError), (401, UserError), (402, UserError), (404, UserError), (405, UserError)],
)
def test_whose_fault(status: int, kind: type[Exception]) -> None:
    headers = {"retry-after": "3"}
    with pytest.raises(kind) as caught:
        check_status(status, headers, b"", address="http://host/v1", key=None)
    if isinstance(caught.value, ServerError):
        # Overload and restarts are never held against an image.
        passing = status in (408, 429, 503)
        assert caught.value.counted is not passing
        assert caught.value.pause == (3.0 if passing else None)
    check_status(200, headers, b"", address="http://host/v1", key=None)


@pytest.mark.parametrize(
    ("message", "shared"),
    [("EngineCore encountered an issue. See stack trace", True), ("no", False)],
)
def test_a_dead_engine_is_the_fault_of_any_request_in_flight(message: str, shared: bool) -> None:
    with pytest.raises(ServerError) as caught:
        check_status(500, {}, message.encode(), address="http://host/v1", key=None)
    assert caught.value.counted and caught.value.shared is shared


def test_addresses_are_one_if_they_are_the_same() -> None:
    given = [
        "http://Host:8000",
        "http://host:8000/v1/",
        "https://host/a/v2",
        " http://host:8000/v1",
    ]
    assert normalise_addresses(given) == ["http://host:8000/v1", "https://host/a/v2"]
    with pytest.raises(UserError, match="--server needs an address"):
        normalise_addresses([])


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("http://localhost:1/v1", True),
        ("http://127.8.0.1/v1", True),
        ("http://[::1]:1/v1", True),
        ("http://10.0.0.1/v1", False),
        ("http://localhost.example.org/v1", False),
    ],
)
def test_loopback(address: str, here: bool) -> None:
    assert is_loopback(address) is here


def test_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("", None), (" sk-1\n", "sk-1")):
        monkeypatch.setenv("OPENAI_API_KEY", value)
        assert read_key() == expected
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u00e91")
    with pytest.raises(UserError, match="OPENAI_API_KEY contains characters") as caught:
        read_key()
    assert "sk-" not in str(caught.value)
