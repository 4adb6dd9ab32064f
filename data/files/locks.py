"""File locks: a folder with one writer, a file with one maker; and file systems that have none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from data.errors import UserError

LOCK_NAME = ".lock"
# What NFS without its lock service, Lustre without `-o flock` and some FUSE systems answer.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_held: list[TextIO] = []


def lock_file(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False where the file system has no locks.

    Without a lock nothing is kept out: what that means is for the caller to say.

    Raises:
        BlockingIOError: another process has it, and `wait` is false.
    """
    flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, flags)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


@contextlib.contextmanager
def hold_lock(folder: Path, name: str = LOCK_NAME) -> Iterator[None]:
    """Hold a lock in `folder`, waiting for it; the next process finds the work done.

    Where the file system has no locks, two processes may make the same file at the same time; each
    writes it whole, under a name of its own, and the work is done twice.
    """
    with open_lock(folder, name) as file:
        lock_file(file.fileno(), wait=True)
        yield


@contextlib.contextmanager
def keep_others_out(
    folder: Path, *, warn: Callable[[str], None], doing: str = "training"
) -> Iterator[None]:
    """Hold `folder`/.lock, or refuse at once; `warn` is told where no lock is available.

    Raises:
        UserError: another run is at work in the folder.
    """
    with open_lock(folder) as file:
        try:
            holds = lock_file(file.fileno())
        except BlockingIOError as error:
            raise UserError(
                f"another process is {doing} in {folder}: wait for it, stop it, or use another "
                "--out"
            ) from error
        if not holds:
            # Two would write into one log and one state, which nothing could set right afterwards;
            # but without locks there is no telling, and one alone is as safe as anywhere.
            warn(
                f"the file system of {folder} does not support file locks: make sure that no other "
                "run trains there, because two would overwrite each other's state"
            )
        yield


@contextlib.contextmanager
def open_lock(folder: Path, name: str = LOCK_NAME) -> Iterator[TextIO]:
    """The lock's file. The system frees the lock when a process dies, so none is left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as file:
        _held.append(file)
        try:
            yield file
        finally:
            # In a forked process it is let go already.
            with contextlib.suppress(ValueError):
                _held.remove(file)


def _let_go() -> None:
    while _held:
        _held.pop().close()


# A loader process inherits the lock and would keep it for a while after its parent was killed.
os.register_at_fork(after_in_child=_let_go)
