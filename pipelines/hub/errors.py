"""One-line messages for errors of the Hub and its client, without secrets or signed URLs."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator

import httpx2
from huggingface_hub import constants, errors, get_token

from data.environment import hide_credentials
from data.errors import UserError
from data.escaping import show_name

_MOST_LETTERS = 300


def explain(error: BaseException, *, repo: str, state: str) -> UserError:
    """The message for an error of the Hub's client or the network.

    Args:
        state: the current state of the repository, and how to continue.
    """
    chain = list(_follow(error))
    for cause in chain:
        if isinstance(cause, errors.LocalTokenNotFoundError):
            return UserError(
                "there is no token for the Hub: run `hf auth login`, or set HF_TOKEN to one with "
                f"write access ({hide_credentials(constants.ENDPOINT)}/settings/tokens)"
            )
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return UserError(
                "the Hub is not contacted while HF_HUB_OFFLINE is set: unset it to publish, or "
                "write the same files with --to-dir"
            )
        if isinstance(cause, errors.HfHubHTTPError):
            return UserError(f"{_explain_answer(cause, repo)}; {state}")
    network = any(isinstance(cause, httpx2.TransportError) for cause in chain)
    named = [cause for cause in chain if isinstance(cause, OSError) and cause.filename is not None]
    if named and not network:
        what = f"{show_name(str(named[0].filename))} cannot be read ({named[0].strerror})"
        return UserError(f"{what}; {state}")
    if network or any(isinstance(cause, OSError) for cause in chain):
        return UserError(f"the Hub cannot be reached ({shorten(str(chain[-1]))}); {state}")
    return UserError(f"the upload failed ({shorten(str(chain[-1]))}); {state}")


def shorten(text: str) -> str:
    """`text` on one line, without tokens, passwords and the queries of signed URLs."""
    line = re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\"]*", r"\1", " ".join(text.split()))
    line = hide_credentials(line)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        token = get_token()
    if token:
        line = line.replace(token, "<token>")
    return re.sub(r"\bhf_\w{8,}", "<token>", line)[:_MOST_LETTERS]


@contextlib.contextmanager
def forward_warnings(say: Callable[[str], None]) -> Iterator[None]:
    """Pass the client's warnings to `say` while entered, since they contain signed URLs."""
    logger = logging.getLogger("huggingface_hub")
    handler = _Forwarder(say)
    before, propagated = list(logger.handlers), logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagated


def _explain_answer(error: errors.HfHubHTTPError, repo: str) -> str:
    status = error.response.status_code
    told = shorten(error.server_message or error.response.headers.get("X-Error-Message") or "")
    words = f': "{told}"' if told else ""
    if status == 401:
        return (
            f"the Hub does not accept the token{words}: set HF_TOKEN to a valid one, or run `hf "
            "auth login` (HF_TOKEN takes precedence over a login)"
        )
    if status == 403:
        return (
            f"you may not write to {repo}{words}: publish under your own name or organization, "
            "with a token that has write access"
        )
    if status == 400:
        return f"the Hub refused it{words}"
    if status == 429:
        return f"the Hub still asks to wait (429){words}"
    return f"the Hub answered {status}{words}"


def _follow(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, the outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


class _Forwarder(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(shorten(record.getMessage()))
