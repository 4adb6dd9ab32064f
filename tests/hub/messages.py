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

    def read_json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

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


def answer_json(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Answer:
    """A JSON document."""
    kind = {"Content-Type": "application/json"}
    return Answer(json.dumps(value).encode(), status, {**kind, **(headers or {})})


class RefusedError(Exception):
    """An error as the Hub words it: by status and, for some, by the header X-Error-Code."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = answer_json({"error": message}, status=status, headers=headers)
