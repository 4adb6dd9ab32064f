"""Runs on a file system that has no locks: told in a line, and safe all the same."""

import errno
import re
import threading
from pathlib import Path

import pytest

from captioner.run.session import CaptionResult, caption
from captioner.store.verification import verify_run
from data.dense.run import read_run
from tests.captioner.images import write_images
from tests.captioner.run.test_session import run_scripted, shard_bytes
from tests.captioner.run.test_sharing import run_rank
from tests.data.files.test_locks import NO_LOCKS, refuse_locks
from tests.waiting import meet


@pytest.mark.parametrize("code", NO_LOCKS)
def test_a_run_is_whole_without_locks_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    write_images(tmp_path / "i", 25)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    refuse_locks(monkeypatch, code)
    events: list[str] = []
    count = 0

    def stop() -> bool:
        nonlocal count
        count += 1
        return count > 12

    first = run_scripted(
        tmp_path / "i", tmp_path / "out", shard_size=10, stop=stop, on_event=events.append
    )
    assert first.interrupted and not first.complete
    # Its own: another run, unnoticed, never writes into the same one.
    journals = [path.name for path in (tmp_path / "out" / "journal").iterdir()]
    assert journals and all(re.fullmatch(r"\d{5}\.[0-9a-f]{12}\.jsonl", name) for name in journals)
    second = run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10)
    assert second.complete and first.generated + second.generated == 25
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    warning = [line for line in events if "file locks" in line]
    assert len(warning) == 1 and "some images would be captioned twice" in warning[0]
    assert not (tmp_path / "out" / "leases").exists()


def test_two_runs_that_do_not_notice_each_other_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "i", 50)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    refuse_locks(monkeypatch, errno.ENOLCK)
    results: list[CaptionResult] = []

    def work() -> None:
        results.append(run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3 and read_run(tmp_path / "out")["complete"]
    assert verify_run(tmp_path / "out").ok
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_ranks_share_a_folder_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "i", 60)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    refuse_locks(monkeypatch, errno.EOPNOTSUPP)
    results: list[CaptionResult] = []
    before = meet(2)

    def work(rank: int) -> None:
        results.append(run_rank(tmp_path / "i", tmp_path / "out", rank, 2, before=before))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result.generated for result in results) >= 60
    assert any(result.complete for result in results)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_a_finished_run_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "i", 5)
    run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10)
    before = shard_bytes(tmp_path / "out")
    refuse_locks(monkeypatch, errno.ENOSYS)
    again = caption(
        model="any", engine="scripted", images=tmp_path / "i", out=tmp_path / "out", shard_size=10
    )
    assert again.complete and again.generated == 0 and shard_bytes(tmp_path / "out") == before
