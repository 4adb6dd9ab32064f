"""The exception that users see, and whether they asked for a traceback."""

import os


class UserError(Exception):
    """Bad input, described in one line: what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with `exit_code`.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(UserError):
    """Options that cannot be combined: one of them would be ignored."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)


def wants_traceback() -> bool:
    """Whether a traceback was requested, with `-v` or the environment variable."""
    return os.environ.get("D2S_TRACEBACK", "") not in ("", "0")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """The beginning of an exception's message on one line, or its type."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def shorten_error(error: BaseException) -> str:
    """The type of an exception and the beginning of its message, on one line."""
    said, kind = one_line(error), type(error).__name__
    return kind if said == kind else f"{kind}: {said}"
