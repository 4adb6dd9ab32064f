"""Which owner works on which shard, if several share a folder, possibly from several machines.

A lease is a file with its owner's name, renewed by touching it. File locks would be simpler, but on
cluster file systems they often only work within one machine. A lease therefore guarantees little:
two owners of one shard waste work but do no harm, since a shard's content does not depend on its
writer.
"""

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from data.files.temporaries import name_temporary, sweep_once

LEASE_SECONDS = 120.0
# Renewals and checks during the lifetime of a lease.
_RENEWALS, _LOOKS = 12, 120


@dataclass(frozen=True)
class OtherLease:
    """A lease of another owner when it was read; it changes when it is renewed."""

    owner: str
    renewed_ns: int


class Leases:
    """The leases of one owner, renewed by a thread while the context is open."""

    def __init__(self, folder: Path, *, owner: str, seconds: float | None = None) -> None:
        """`owner` must differ from every other owner's.

        A lease expires after `seconds` without renewal, by default LEASE_SECONDS.
        """
        self.folder = folder
        self.owner = owner
        self._seconds = LEASE_SECONDS if seconds is None else seconds
        self._held: set[Path] = set()
        # The file system's clock, and this process's clock at the same moment.
        self._clock = (0.0, float("-inf"))
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)

    def __enter__(self) -> "Leases":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._thread.join()
        for path in list(self._held):
            self._drop(path)
        # Only the last owner finds it empty.
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def take(self, name: str) -> bool:
        """Try to take the lease `name`: True if it is free, already ours, or expired."""
        path = self.folder / name
        if path in self._held:
            return True
        if not self._create(path) and not self._take_over(path):
            return False
        with self._lock:
            self._held.add(path)
        return True

    @property
    def look_seconds(self) -> float:
        """How often to check whether another owner's lease is renewed."""
        return self._seconds / _LOOKS

    def read_lease(self, name: str) -> OtherLease | None:
        """Another owner's lease `name`; None if there is none, or it has expired."""
        path = self.folder / name
        # Read first: on file systems that cache attributes, opening the file refreshes them.
        owner = _read_owner(path)
        if owner is None or owner == self.owner:
            return None
        try:
            renewed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        return None if self._has_ended(path) else OtherLease(owner, renewed)

    def release(self, name: str) -> None:
        """Release the lease `name`."""
        self._drop(self.folder / name)

    def _create(self, path: Path) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_once(self.folder)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Another owner has removed the folder.
            return self._create(path)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.owner)
        return True

    def _take_over(self, path: Path) -> bool:
        owner = _read_owner(path)
        if owner == self.owner:
            # Held by a dead process with this name; a requeued job need not wait.
            path.touch()
            return True
        if not self._has_ended(path):
            return False
        mine = name_temporary(path)
        mine.write_text(self.owner)
        os.replace(mine, path)
        # If several owners take over at once, the last one wins.
        return _read_owner(path) == self.owner

    def _has_ended(self, path: Path) -> bool:
        try:
            return self._read_clock() - path.stat().st_mtime > self._seconds
        except FileNotFoundError:
            return False

    def _read_clock(self) -> float:
        """The time of the file system, since machines' clocks differ; read as rarely as renewed.

        Reading it takes a file, and files are expensive if many processes write (Lustre).
        """
        told, then = self._clock
        now = time.monotonic()
        if now - then > self._seconds / _RENEWALS:
            clock = name_temporary(self.folder / "clock")
            try:
                clock.touch()
                told, then = self._clock = clock.stat().st_mtime, now
            finally:
                clock.unlink(missing_ok=True)
        return told + now - then

    def _renew(self) -> None:
        while not self._closing.wait(self._seconds / _RENEWALS):
            with self._lock:
                held = list(self._held)
            for path in held:
                # A lease that another owner took meanwhile is theirs: at most, work is done twice.
                if _read_owner(path) == self.owner:
                    with contextlib.suppress(OSError):
                        os.utime(path)

    def _drop(self, path: Path) -> None:
        with self._lock:
            self._held.discard(path)
        if _read_owner(path) == self.owner:
            path.unlink(missing_ok=True)


def _read_owner(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
