"""File locks: one writer per folder or file, and file systems without locks."""

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
# Errors of NFS without a lock service, Lustre without `-o flock` and some FUSE systems.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_held: list[TextIO] = []


def lock_file(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False where the file system has no locks.

    Without a lock, other processes are not kept out; the caller decides what that means.

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
    """Hold a lock in `folder`, waiting for it if necessary; later processes find the work done.

    If the file system has no locks, two processes may write the same file at the same time; each
    writes it completely under its own temporary name, and the work is done twice.
    """
    with open_lock(folder, name) as file:
        lock_file(file.fileno(), wait=True)
        yield


@contextlib.contextmanager
def keep_others_out(
    folder: Path, *, warn: Callable[[str], None], doing: str = "training"
) -> Iterator[None]:
    """Hold `folder`/.lock, or refuse at once; `warn` is called if locks are not available.

    Raises:
        UserError: another run is using the folder.
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
            # Two runs would write to the same log and state, which could not be repaired; but
            # without locks this cannot be detected, and a single run is safe.
            warn(
                f"the file system of {folder} does not support file locks: make sure that no other "
                "run trains there, because two would overwrite each other's state"
            )
        yield


@contextlib.contextmanager
def open_lock(folder: Path, name: str = LOCK_NAME) -> Iterator[TextIO]:
    """The lock's file. The system frees the lock when a process dies, so none is left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    # For reading too: NFS refuses a shared lock on a file that is only open for writing.
    with (folder / name).open("a+") as file:
        _held.append(file)
        try:
            yield file
        finally:
            # In a forked process it is already released.
            with contextlib.suppress(ValueError):
                _held.remove(file)


def _let_go() -> None:
    while _held:
        _held.pop().close()


# A loader process inherits the lock and would keep it for a while after its parent was killed.
os.register_at_fork(after_in_child=_let_go)
