"""One training run in a folder, one maker of a cached file; and file systems without locks."""

import threading
from pathlib import Path

import pytest

from data.errors import UserError
from data.files.fork_lock import hold_lock, keep_others_out
from tests.data.files.test_locks import NO_LOCKS, refuse_locks


def test_a_second_run_is_refused_and_a_third_is_not(tmp_path: Path) -> None:
    with (
        keep_others_out(tmp_path, warn=pytest.fail),
        pytest.raises(UserError, match="another run is training in"),
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
