"""Locks on a run's folder, and what happens without them.

Locks only save work. Without one, a run works like one of several owners
(`captioner.store.leases`): it has its own journals, and the first owner to finish a shard renames
it into place. Two runs that do not notice each other waste work but do no harm.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from data.files.locks import lock_file, open_lock


@contextlib.contextmanager
def hold_folder(directory: Path, *, shared: bool = False) -> Iterator[bool]:
    """Keep other runs out of the folder; False if the file system has no locks.

    Processes that share a folder only keep out those that need it exclusively. The system releases
    the lock when a process dies.

    Raises:
        UserError: another run is using the folder, or it cannot be written.
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
    """The warning for the user if `hold_folder` returned False."""
    return (
        f"the file system of {directory} does not support file locks: a second run there would not "
        "be noticed, and some images would be captioned twice (no text would be lost or duplicated)"
    )
