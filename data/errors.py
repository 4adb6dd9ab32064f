"""The one exception that a user is meant to read, and who wants to see more."""

import os


class UserError(Exception):
    """Bad input, said in one line: what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with `exit_code`.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def wants_traceback() -> bool:
    """Whether a traceback was asked for, by `d2s --traceback` or by its variable."""
    return os.environ.get("D2S_TRACEBACK", "") not in ("", "0")
