"""One line of an answer file: the result of a request."""

from __future__ import annotations

import json
from typing import Any

from captioner.engine.protocol import Generation
from captioner.engine.server.chat import AnswerCheck, read_answer
from captioner.engine.server.client import (
    OF_THE_REQUEST,
    PASSING,
    RefusedError,
    ServerError,
    clean_text,
    read_message,
    refuse_error,
)


def read_result(line: dict[str, Any], *, key: str, check: AnswerCheck) -> Generation:
    """The text, or the reason why there will never be one.

    Raises:
        ServerError: it was not answered (expired, overloaded, broken); a new request may be.
    """
    try:
        return read_answer(open_response(line), key=key, check=check)
    except RefusedError as refusal:
        return Generation(key, error=f"not accepted: {refusal}")


def open_response(line: dict[str, Any]) -> dict[str, Any]:
    """The chat completion of a line.

    Raises:
        RefusedError: the request will never be answered.
        ServerError: it was not answered this time.
    """
    response, error = line.get("response"), line.get("error")
    if not isinstance(response, dict):
        # It has expired or was cancelled, which is not the request's fault.
        raise ServerError(f"no answer{_say(error)}", counted=False)
    status, body = response.get("status_code"), response.get("body")
    if status != 200:
        reason = f"HTTP {clean_text(str(status))}{_say(body or error)}"
        if status in OF_THE_REQUEST:
            raise RefusedError(reason)
        broken = isinstance(status, int) and status >= 500 and status not in PASSING
        raise ServerError(reason, counted=broken)
    refuse_error(body, key=None)
    if not isinstance(body, dict):
        raise ServerError("the answer contains no choices")
    return body


def _say(error: Any) -> str:
    said = read_message(json.dumps(error).encode(), key=None) if error else ""
    return f": {said}" if said else ""
