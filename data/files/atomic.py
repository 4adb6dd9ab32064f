"""Atomic files: complete, or absent."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.temporaries import RETIRED, name_temporary, sweep_once

_FULL = {errno.ENOSPC, errno.EDQUOT}
# Errors of FUSE, CIFS and others when a folder is synced; they persist names by themselves.
_UNSYNCED = {errno.EINVAL, errno.ENOTSUP}
# A folder with content, or a file, is where a folder should be.
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}


@contextlib.contextmanager
def replace_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is synced and takes `path`'s place.

    On any error the temporary file is removed and `path` stays as it was. The temporary name is
    unique: if two processes write `path` at the same time, each writes a complete file, and the
    last one stays. Leftovers of killed writers are removed.

    Raises:
        UserError: the disk is full.
    """
    sweep_once(path.parent)
    temporary = name_temporary(path)
    try:
        with explain_full_disk(path):
            yield temporary
            sync_file(temporary)
            os.replace(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replace_folder(path: Path, *, only_empty: bool = False) -> Iterator[Path]:
    """Yield an empty folder next to `path`; on success it is synced and takes `path`'s place.

    If `path` is a link, this applies to the folder that it leads to. An existing folder is then
    removed, with `only_empty` only if it is still empty; on any error it stays, and the new one is
    removed.

    Raises:
        UserError: the disk is full, or `path` is the current folder, or with `only_empty` not
            empty.
    """
    refuse_current_folder(path)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep_once(target.parent)
    temporary = name_temporary(target)
    retired = temporary.with_suffix(RETIRED)
    try:
        with explain_full_disk(path):
            temporary.mkdir()
            yield temporary
            for entry in (*temporary.rglob("*"), temporary):
                (sync_folder if entry.is_dir() else sync_file)(entry)
            if target.exists() and not only_empty:
                os.rename(target, retired)
            _place(temporary, target)
            sync_folder(target.parent)
    except BaseException:
        if retired.exists() and not target.exists():
            os.rename(retired, target)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if retired.exists():
        # Under the other name: nobody must restore a folder that is half removed.
        shutil.rmtree(retired.rename(retired.with_suffix(".tmp")), ignore_errors=True)


def refuse_current_folder(path: Path) -> None:
    """UserError if `path` is the current folder.

    If another folder took its place, the user's shell would stay in the old one, which is empty.
    """
    if path.is_dir() and path.samefile(os.curdir):
        raise UserError(
            f"{path} is the current folder, which cannot be replaced: use a folder in it"
        )


def _place(temporary: Path, target: Path) -> None:
    """Rename a folder to a name that is free or that of an empty folder.

    The system refuses both steps if there is content, so nothing that another process has written
    until now is lost.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
        os.rename(temporary, target)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        raise UserError(
            f"{target} contains files of another process by now, so it is not replaced: use "
            "another --out"
        ) from error


@contextlib.contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" into a UserError that names `path`; other errors pass through."""
    try:
        yield
    except Exception as error:
        if not _says_full(error):
            raise
        raise UserError(
            f"the disk is full: {path} could not be written; what was finished is kept, "
            "so make room and run the same command again"
        ) from error


def _says_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    # safetensors raises its own error, not an OSError, with the system's error number in its text.
    return type(error).__name__ == "SafetensorError" and any(
        f"(os error {number})" in str(error) for number in _FULL
    )


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as readable JSON, atomically."""
    with replace_whole(path) as temporary:
        temporary.write_bytes(to_json(value))


def to_json(value: Mapping[str, Any]) -> bytes:
    """Readable JSON in UTF-8."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # JSON can represent a lone surrogate (from a name that is not UTF-8), but UTF-8 cannot.
    return text.encode("utf-8", "backslashreplace")


def sync_file(path: Path) -> None:
    """Make the file's content survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the folder's entries survive a power failure, on file systems that support it."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise
