"""One process at a time makes a cached file or writes into a training folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from data.errors import UserError
from data.files.locks import lock_file

_held: list[TextIO] = []


@contextlib.contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Hold `folder`/.lock, waiting for it; the next process finds the file made.

    Where the file system has no locks, two processes may make the same file at the same time; each
    writes it whole, under a name of its own, and the work is done twice.
    """
    with _open(folder) as file:
        lock_file(file.fileno(), wait=True)
        yield


@contextlib.contextmanager
def keep_others_out(
    folder: Path, *, warn: Callable[[str], None], doing: str = "training"
) -> Iterator[None]:
    """Hold `folder`/.lock, or refuse at once; `warn` is told where no lock can be had.

    Raises:
        UserError: another run is at work in the folder.
    """
    with _open(folder) as file:
        try:
            holds = lock_file(file.fileno())
        except BlockingIOError as error:
            raise UserError(
                f"another run is {doing} in {folder}: wait for it, stop it, or give another --out"
            ) from error
        if not holds:
            # Two would write into one log and one state, which nothing could set right afterwards;
            # but without locks there is no telling, and one alone is as safe as anywhere.
            warn(
                f"the file system of {folder} has no file locks: see to it that no other run "
                "trains there, for two would overwrite each other's state"
            )
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
