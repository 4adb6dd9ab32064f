"""Folders that are whole or not there."""

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from data.errors import UserError
from data.files.atomic import replace_folder, write_json


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with replace_folder(target) as folder:
        (folder / "a").write_text("a")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for name in ("old", "new"):
        with replace_folder(target) as folder:
            (folder / name).write_text("")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("before", [True, False])
def test_an_error_leaves_what_was_there(tmp_path: Path, before: bool) -> None:
    target = tmp_path / "out"
    if before:
        target.mkdir()
        (target / "old").write_text("")

    def fail() -> None:
        with replace_folder(target) as folder:
            (folder / "new").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == (["out", "old"] if before else [])


@pytest.mark.parametrize("before", ["nothing", "empty folder"])
def test_what_another_process_wrote_meanwhile_stays(tmp_path: Path, before: str) -> None:
    target = tmp_path / "out"
    for written in (False, True):
        shutil.rmtree(target, ignore_errors=True)
        if before == "empty folder":
            target.mkdir()
        refused = pytest.raises(UserError, match="another process")
        with (
            refused if written else contextlib.nullcontext(),
            replace_folder(target, only_empty=True) as folder,
        ):
            (folder / "new").write_text("")
            if written:
                target.mkdir(exist_ok=True)
                (target / ".lock").write_text("")
        assert [path.name for path in target.iterdir()] == [".lock" if written else "new"]
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("only_empty", [True, False])
def test_a_link_stays_and_its_folder_is_replaced(tmp_path: Path, only_empty: bool) -> None:
    (tmp_path / "big" / "out").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "out").symlink_to(tmp_path / "big" / "out")
    with replace_folder(tmp_path / "here" / "out", only_empty=only_empty) as folder:
        (folder / "new").write_text("")
    assert (tmp_path / "here" / "out").readlink() == tmp_path / "big" / "out"
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert names == ["big", "big/out", "big/out/new", "here", "here/out"]


@pytest.mark.parametrize("name", [".", "../here"])
def test_the_current_folder_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A shell would stay in the folder that was removed, and see nothing."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="current folder"), replace_folder(Path(name)):
        raise AssertionError("it was begun")
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_cannot_sync_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """FUSE and CIFS say so of folders; whatever is wrong with a file, or a disk, is an error."""
    sync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) or refused_files:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    refused_files = False
    monkeypatch.setattr(os, "fsync", refuse)
    expected = pytest.raises(OSError) if number == errno.EIO else contextlib.nullcontext()
    with expected:
        write_json(tmp_path / "a.json", {"a": 1})
    with expected, replace_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("a")
    refused_files = True
    with pytest.raises(OSError):
        write_json(tmp_path / "b.json", {"a": 1})
