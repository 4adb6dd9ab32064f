"""File locks, and what is done where a file system has none."""

import errno
import os
from pathlib import Path

import pytest

from data.files.locks import lock_file

NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


def refuse_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Make every lock fail as file systems without locks do."""

    def fail(descriptor: int, flags: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("data.files.locks.fcntl.flock", fail)


def test_a_lock_is_one_owners_until_the_file_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "l").open("w") as one, (tmp_path / "l").open("w") as two:
        assert lock_file(one.fileno())
        with pytest.raises(BlockingIOError):
            lock_file(two.fileno())
        with pytest.raises(BlockingIOError):
            lock_file(two.fileno(), shared=True)
        one.close()
        assert lock_file(two.fileno(), shared=True)
        with (tmp_path / "l").open("w") as three:
            assert lock_file(three.fileno(), shared=True, wait=True)


@pytest.mark.parametrize("code", NO_LOCKS)
def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse_locks(monkeypatch, code)
    with (tmp_path / "l").open("w") as file:
        assert not lock_file(file.fileno())


def test_any_other_error_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.EIO)
    with (tmp_path / "l").open("w") as file, pytest.raises(OSError, match="Input/output error"):
        lock_file(file.fileno(), wait=True)
