"""Names for what is being written, such that no two writers share one, and the end of stale ones.

A name tells who writes: the place where process numbers mean something (this start of this machine,
this container), the process, and a random part. So what a killed process left behind can be told
from what a living one is writing.
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

# Longer names leave no room for the rest: file systems take 255 bytes.
_LONGEST_STEM = 180
_NAME = re.compile(r"\.(.+)\.([0-9a-f]{12})-(\d+)-[0-9a-f]{8}\.(tmp|old)")
# What was there before, for the moment in which a new folder takes its place.
RETIRED = ".old"
# What another machine is writing is touched far more often than that.
_STALE_SECONDS = 24 * 3600.0
_swept: set[Path] = set()


def name_temporary(path: Path) -> Path:
    """A hidden name beside `path` that nobody else has."""
    stem = path.name
    if len(os.fsencode(stem)) > _LONGEST_STEM:
        stem = hashlib.sha256(os.fsencode(stem)).hexdigest()[:32]
    token = uuid.uuid4().hex[:8]
    return path.with_name(f".{stem}.{_find_place()}-{os.getpid()}-{token}.tmp")


def sweep_once(folder: Path) -> None:
    """Remove what dead writers left in `folder`; once in a process, since none come to be later."""
    folder = folder.absolute()
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


def sweep(folder: Path) -> None:
    """Remove temporary files and folders of writers that are certainly dead.

    Of this place: those whose process is gone. Of other machines, whose processes cannot be asked:
    files that nobody has written to for a day. A folder that was moved out of the way for one that
    never came is put back. Whatever cannot be read or removed stays.
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
    # Another owner may have swept it this moment.
    with contextlib.suppress(OSError):
        path.unlink()


def _is_stale(path: Path, *, place: str, process: int) -> bool:
    if place == _find_place():
        return not _is_alive(process)
    if path.is_dir():
        # A folder's own time says nothing of the files in it.
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
    """Seconds since it was written to, by the file system's own clock: those of machines differ."""
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
    """Where a process number stands for one process: a start of a machine, or a container in it."""
    known = [socket.gethostname()]
    # Not everywhere are these; the name of the machine has to do then.
    with contextlib.suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        known.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]
