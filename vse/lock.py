"""One process at a time makes a cached file or writes into a training folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from data.errors import UserError

_held: list[TextIO] = []


@contextlib.contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Hold `folder`/.lock, waiting for it; the next process finds the file made."""
    with _open(folder) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def keep_others_out(folder: Path) -> Iterator[None]:
    """Hold `folder`/.lock, or refuse at once.

    Raises:
        UserError: another run is at work in the folder.
    """
    with _open(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another run is training in {folder}: wait for it, stop it, or give another --out"
            ) from error
        yield


@contextlib.contextmanager
def _open(folder: Path) -> Iterator[TextIO]:
    """The lock's file. The system frees the lock when a process dies, so none is left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        _held.append(file)
        try:
            yield file
        finally:
            _held.remove(file)


def _let_go() -> None:
    while _held:
        _held.pop().close()


# A loader process inherits the lock and would keep it for a while after its parent was killed.
os.register_at_fork(after_in_child=_let_go)
