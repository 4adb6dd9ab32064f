"""-q and -v of every command. Imports nothing else of d2s: `pipelines.cli` needs it first."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TextIO

import click

# In the environment, so that child processes inherit them.
QUIET, TRACEBACK = "D2S_QUIET", "D2S_TRACEBACK"


def _be_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        os.environ[QUIET] = "1"


def _be_verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        os.environ[TRACEBACK] = "1"
        logging.basicConfig(level=logging.INFO)


VERBOSITY = (
    click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_be_quiet,
                 is_eager=True, help="Print only results and errors."),
    click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, callback=_be_verbose,
                 is_eager=True, help="Print tracebacks and the log messages of libraries."),
)  # fmt: skip


def find_info_stream() -> TextIO:
    """The stream for information and progress: stderr, or none with --quiet."""
    return io.StringIO() if os.environ.get(QUIET) else sys.stderr
