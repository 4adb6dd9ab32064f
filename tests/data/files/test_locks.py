"""File locks, what is one at a time by them, and what is done where a file system has none."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from data.errors import UserError
from data.files.locks import hold_lock, keep_others_out, lock_file, open_lock

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


@pytest.mark.parametrize("shared", [True, False])
def test_both_locks_are_had_on_nfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """It makes them locks of byte ranges, which need a file that is open for the right things."""
    monkeypatch.setattr("data.files.locks.fcntl.flock", fcntl.lockf)
    with open_lock(tmp_path) as file:
        assert lock_file(file.fileno(), shared=shared)


def test_a_second_run_is_refused_and_a_third_is_not(tmp_path: Path) -> None:
    with (
        keep_others_out(tmp_path, warn=pytest.fail),
        pytest.raises(UserError, match="another process is training in"),
        keep_others_out(tmp_path, warn=pytest.fail),
    ):
        pass
    with keep_others_out(tmp_path, warn=pytest.fail):
        pass


def test_whoever_comes_second_to_a_cached_file_waits(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> None:
        with hold_lock(tmp_path):
            if not (tmp_path / "file").exists():
                made.append("once")
                (tmp_path / "file").touch()

    with hold_lock(tmp_path):
        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert made == []
    for thread in threads:
        thread.join()
    assert made == ["once"]


@pytest.mark.parametrize("code", NO_LOCKS)
def test_without_locks_training_goes_on_and_says_what_to_see_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse_locks(monkeypatch, code)
    told: list[str] = []
    with keep_others_out(tmp_path, warn=told.append), hold_lock(tmp_path):
        pass
    assert len(told) == 1 and "two would overwrite each other's state" in told[0]
