"""Requests and answers as the routes see them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from tests.hub.state import Hub


@dataclass(frozen=True)
class Request:
    """One request; `parts` are the named groups of the route's pattern, unquoted."""

    method: str
    parts: Mapping[str, str]
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    endpoint: str

    def ask(self, name: str) -> bool:
        """Whether a flag of the query is set."""
        return self.query.get(name, ["false"])[-1].lower() == "true"

    def read_form(self) -> dict[str, list[str]]:
        """The body as an HTML form sends it."""
        return parse_qs(self.body.decode(), keep_blank_values=True)


@dataclass(frozen=True)
class Answer:
    """What is sent back; Content-Length is added by the server."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Hub, Request], Answer]


def answer_json(value: Any, *, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON document."""
    kind = {"Content-Type": "application/json"}
    return Answer(json.dumps(value).encode(), headers={**kind, **(headers or {})})


class RefusedError(Exception):
    """An error as the Hub words it: by status and by the header X-Error-Code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.answer = Answer(json.dumps({"error": message}).encode(), status, headers)
