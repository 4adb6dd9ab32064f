"""Unique names for temporary files, and removal of stale ones.

A name identifies its writer: the scope of the process id (this boot of this machine, or this
container), the process id, and a random part. This distinguishes leftovers of a killed process from
files that a running process is writing.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
import uuid
from pathlib import Path

# Longer names leave no room for the rest: file systems allow 255 bytes.
_LONGEST_STEM = 180
_NAME = re.compile(r"\.(.+)\.([0-9a-f]{12})-(\d+)-[0-9a-f]{8}\.(tmp|old)")
# The previous folder, while the new one takes its place.
RETIRED = ".old"
# Files that another machine is writing are modified far more often than that.
_STALE_SECONDS = 24 * 3600.0
_swept: set[Path] = set()


def name_temporary(path: Path) -> Path:
    """A unique hidden name next to `path`."""
    stem = path.name
    if len(os.fsencode(stem)) > _LONGEST_STEM:
        stem = hashlib.sha256(os.fsencode(stem)).hexdigest()[:32]
    token = uuid.uuid4().hex[:8]
    return path.with_name(f".{stem}.{_find_place()}-{os.getpid()}-{token}.tmp")


def sweep_once(folder: Path) -> None:
    """Remove leftovers of dead writers in `folder`, once per process."""
    folder = folder.absolute()
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


def sweep(folder: Path) -> None:
    """Remove temporary files and folders of writers that are certainly dead.

    On this machine, these are writers whose process is gone. On other machines, whose processes
    cannot be checked, they are files that have not been written to for a day. A folder that was
    moved aside for one that never came is restored. Whatever cannot be read or removed stays.
    """
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found is None or not _is_stale(path, place=found[2], process=int(found[3])):
                continue
            if path.suffix == RETIRED and not (folder / found[1]).exists():
                os.rename(path, folder / found[1])
            else:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    # Another process may just have removed it.
    with contextlib.suppress(OSError):
        path.unlink()


def _is_stale(path: Path, *, place: str, process: int) -> bool:
    if place == _find_place():
        return not _is_alive(process)
    if path.is_dir():
        # A folder's own time says nothing about the files in it.
        return False
    return _find_age(path) > _STALE_SECONDS


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # Another user's.
        return True
    return True


def _find_age(path: Path) -> float:
    """Seconds since the last write, by the file system's clock, since machines' clocks differ."""
    clock = name_temporary(path.with_name("clock"))
    try:
        clock.touch()
        return clock.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        clock.unlink(missing_ok=True)


@functools.cache
def _find_place() -> str:
    """The scope in which a process id is unique: a boot of a machine, or a container."""
    known = [socket.gethostname()]
    # These do not exist everywhere; the machine's name is used instead.
    with contextlib.suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        known.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]
