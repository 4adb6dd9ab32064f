"""Locks of a run's folder, and what holds where the file system has none.

Nothing in a run depends on a lock but the speed. Without one a run works as one of several owners
does (`captioner.store.leases`): journals of its own, shards that whoever is first renames into
place. Two runs that do not notice each other then waste work and do no harm.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from data.files.locks import lock_file, open_lock


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
            file = stack.enter_context(open_lock(directory))
            holds = lock_file(file.fileno(), shared=shared)
        except BlockingIOError as error:
            raise UserError(
                f"another process is writing to {directory}: wait for it, stop it, or use another "
                "folder"
            ) from error
        except OSError as error:
            raise UserError(f"cannot write to {directory}: {error.strerror}") from error
        yield holds


def explain_no_locks(directory: Path) -> str:
    """What a user should know where `hold_folder` gave False."""
    return (
        f"the file system of {directory} does not support file locks: a second run there would not "
        "be noticed, and some images would be captioned twice (no text would be lost or duplicated)"
    )
