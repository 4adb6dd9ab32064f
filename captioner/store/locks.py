"""Locks of a run's folder, and what holds where the file system has none.

Nothing in a run depends on a lock but the speed. Without one a run works as one of several owners
does (`captioner.store.leases`): journals of its own, shards that whoever is first renames into
place. Two runs that do not notice each other then waste work and do no harm.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from data.files.locks import lock_file

_LOCK_NAME, _COMMIT_LOCK_NAME = ".lock", ".commit.lock"


@contextlib.contextmanager
def hold_folder(directory: Path, *, shared: bool = False) -> Iterator[bool]:
    """Keep other runs out of the folder; False where the file system cannot.

    Those that share a folder keep out only those that want it alone. The system frees the lock when
    a process dies.

    Raises:
        UserError: another run is at work there, or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = _open(directory / _LOCK_NAME)
            stack.callback(os.close, descriptor)
            holds = lock_file(descriptor, shared=shared)
        except BlockingIOError as error:
            raise UserError(
                f"another run is writing into {directory}: wait for it, stop it, or give another "
                "--out"
            ) from error
        except OSError as error:
            raise UserError(f"cannot write into {directory}: {error.strerror}") from error
        yield holds


@contextlib.contextmanager
def hold_commits(directory: Path) -> Iterator[None]:
    """One owner at a time, where file locks hold; else two may write the same content twice."""
    descriptor = _open(directory / _COMMIT_LOCK_NAME)
    try:
        lock_file(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def explain_no_locks(directory: Path) -> str:
    """What a user should know where `hold_folder` gave False."""
    return (
        f"the file system of {directory} has no file locks: a second run there would not be "
        "noticed, and some images would be captioned twice (no text would be lost or doubled)"
    )


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
