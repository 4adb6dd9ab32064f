"""Errors of the experiments that are not `d2s` commands: one line and an exit code, like those."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from data.errors import UserError
from pipelines.console.command_line import say
from pipelines.workflow.steps import INTERRUPTED


@contextlib.contextmanager
def report_errors(name: str) -> Iterator[None]:
    """Print what ends the work inside.

    Raises:
        SystemExit: with the code of a UserError, or 130 after Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        say(f"{name}: error: {error}")
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as error:
        say(f"{name}: interrupted")
        raise SystemExit(INTERRUPTED) from error
