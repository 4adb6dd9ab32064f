"""Handling standard streams that are closed, full or without a reader.

Imports only the standard library.
"""

import io
import os
import sys


def prepare_streams() -> None:
    """Make any text printable, and replace missing streams (`2>&-`) by empty ones.

    Otherwise the first opened file would get the stream's descriptor, and be written to.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names and terminals are not always UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Discard remaining output, which has no reader or no space."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
