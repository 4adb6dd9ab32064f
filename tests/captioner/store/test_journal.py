"""The journal: what was written is found again, what was torn is not mistaken for anything."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from captioner.store import journal as journal_module
from captioner.store.journal import Journal, Outcome, list_journals, read_journal
from captioner.store.leases import Leases
from data.errors import UserError


def make_records(count: int) -> list[Outcome]:
    return [
        Outcome(f"id{n}", "ok", caption=f"Text “{n}”\nwith\ttwo lines", width=n, prompt_tokens=9)
        for n in range(count)
    ]


def write(path: Path, records: list[Outcome]) -> None:
    journal = Journal(path)
    for record in records:
        journal.append(record)
    journal.close()


def test_there_and_back(tmp_path: Path) -> None:
    records = make_records(150)
    write(tmp_path / "j", records)
    assert list(read_journal(tmp_path / "j").values()) == records
    assert read_journal(tmp_path / "none") == {}


def test_the_folder_is_removed_while_a_journal_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another owner that finishes."""
    removed, open_file = [], os.open

    def open_late(path: Path, *given: int) -> int:
        if not removed:
            removed.append(path.parent)
            path.parent.rmdir()
        return open_file(path, *given)

    monkeypatch.setattr(os, "open", open_late)
    write(tmp_path / "journal/j", make_records(1))
    assert removed and len(read_journal(tmp_path / "journal/j")) == 1


def test_a_record_is_on_disk_before_the_journal_is_closed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(make_records(1)[0])
    assert len(read_journal(tmp_path / "j")) == 1
    journal.close()


def test_how_much_a_power_failure_can_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/captioning.md says."""
    journal = Journal(tmp_path / "j")
    unsynced = most = 0
    sync = os.fsync

    def count(descriptor: int) -> None:
        nonlocal unsynced
        sync(descriptor)
        unsynced = 0

    monkeypatch.setattr(os, "fsync", count)
    for record in make_records(200):
        unsynced += 1
        journal.append(record)
        most = max(most, unsynced)
    assert most <= 63
    journal.close()
    assert unsynced == 0


def test_torn_at_every_byte(tmp_path: Path) -> None:
    records = make_records(3)
    write(tmp_path / "whole", records)
    content = (tmp_path / "whole").read_bytes()
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    for length in [0, 1, 9, *range(ends[0] - 2, len(content), 3), len(content) - 1]:
        (tmp_path / "j").write_bytes(content[:length])
        # A line whose newline alone is missing is whole: its checksum says so.
        whole = sum(end - 1 <= length for end in ends)
        write(tmp_path / "j", records[whole:])
        assert list(read_journal(tmp_path / "j").values()) == records
        assert (tmp_path / "j").read_bytes() == content


def test_a_flipped_bit_costs_its_own_record_only(tmp_path: Path) -> None:
    records = make_records(5)
    write(tmp_path / "j", records)
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"two lines", b"too lines")
    (tmp_path / "j").write_bytes(b"".join(lines))
    assert [record.sample_id for record in read_journal(tmp_path / "j").values()] == [
        "id0",
        "id1",
        "id3",
        "id4",
    ]


def test_of_two_records_for_one_image_the_first_counts(tmp_path: Path) -> None:
    write(tmp_path / "j", [Outcome("a", "ok", caption="one"), Outcome("a", "ok", caption="two")])
    assert read_journal(tmp_path / "j")["a"].caption == "one"


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(make_records(1)[0])

    def fail(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal_module.os, "write", fail)
    with pytest.raises(UserError, match="disk is full"):
        journal.append(make_records(2)[1])
    monkeypatch.undo()
    journal.close()
    assert list(read_journal(tmp_path / "j")) == ["id0"]


def test_a_colleague_may_continue_if_the_umask_says_so(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        Journal(tmp_path / "j").close()
        assert Leases(tmp_path, owner="a").take("lease")
    finally:
        os.umask(before)
    for name in ("j", "lease"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o664


def test_drop(tmp_path: Path) -> None:
    write(tmp_path / "j", make_records(2))
    Journal(tmp_path / "j").drop()
    assert not (tmp_path / "j").exists()


def test_a_folder_that_another_owner_has_just_removed_has_no_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/00001.jsonl").touch()
    assert [path.name for path in list_journals(tmp_path, 1)] == ["00001.jsonl"]

    def vanish(path: object) -> NoReturn:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "scandir", vanish)
    monkeypatch.setattr(os, "listdir", vanish)
    assert list_journals(tmp_path) == []
