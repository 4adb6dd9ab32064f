"""stdin, stdout and stderr as they may be: closed, full, read by nobody.

Imports the standard library alone.
"""

import io
import os
import sys


def prepare_streams() -> None:
    """Let every text be printed, and give a process without a stream (`2>&-`) an empty one.

    The first file that it opens would take the stream's number, and be written to.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files need not be UTF-8, and a terminal need not be.
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Send what is still to be printed nowhere: there is nobody to read it, or no room for it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
