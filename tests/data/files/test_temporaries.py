"""Temporary names: each writer's own, and gone once their writer is dead."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.files.atomic import replace_folder, replace_whole
from data.files.temporaries import name_temporary, sweep

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
from pathlib import Path
from data.files.atomic import replace_{kind}
with replace_{kind}(Path(sys.argv[1])) as temporary:
    (temporary / "part" if temporary.is_dir() else temporary).write_text("new")
    print(temporary.name, flush=True)
    sys.stdin.readline()
"""


def begin(path: Path, kind: str = "whole") -> tuple["subprocess.Popen[str]", Path]:
    """Another process that is writing `path`, and where."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(kind=kind), str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, path.with_name(process.stdout.readline().strip())


def test_two_writers_of_one_file_each_write_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    with replace_whole(path) as first:
        first.write_text("fir")
        with replace_whole(path) as second:
            assert second != first and second.parent == first.parent == tmp_path
            second.write_text("second")
        assert path.read_text() == "second"
        first.write_text("first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["whole", "folder"])
def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(
    tmp_path: Path, kind: str
) -> None:
    dead, left = begin(tmp_path / "a", kind)
    living, kept = begin(tmp_path / "b", kind)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert left.exists() and kept.exists() and left != kept
    # By whoever writes there next, of any name.
    with replace_whole(tmp_path / "c") as temporary:
        assert not left.exists() and kept.exists()
        temporary.touch()
    living.communicate("\n")
    assert living.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


@pytest.mark.parametrize(
    ("hours", "is_folder", "stays"), [(25, False, False), (1, False, True), (25, True, True)]
)
def test_of_another_machine_only_what_is_long_untouched(
    tmp_path: Path, hours: int, is_folder: bool, stays: bool
) -> None:
    """Its processes cannot be asked: 1 is a number that always lives, and here says nothing."""
    path = tmp_path / ".train-00001-of-00002.parquet.0123456789ab-1-89abcdef.tmp"
    if is_folder:
        path.mkdir()
    else:
        path.touch()
    then = path.stat().st_mtime - 3600 * hours
    os.utime(path, (then, then))
    sweep(tmp_path)
    assert path.exists() == stays
    assert len(list(tmp_path.iterdir())) == stays


@pytest.mark.parametrize("name", [".shard.tmp", "x.0123456789ab-1-89abcdef.tmp", ".x.tmp", "a.old"])
def test_what_is_not_ours_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert (tmp_path / name).exists()


def test_a_folder_that_was_moved_away_for_one_that_never_came_is_put_back(tmp_path: Path) -> None:
    """Killed between two renames, an export is neither the old one nor the new one."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    process, temporary = begin(tmp_path / "out", "folder")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    retired = temporary.with_suffix(".old")
    (tmp_path / "out").rename(retired)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "old").exists()
    # And where the new one has come, the old one goes.
    (tmp_path / "out").rename(retired)
    with replace_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
    sweep(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "shard \n.parquet"])
def test_any_name_that_a_file_system_takes(tmp_path: Path, name: str) -> None:
    with replace_whole(tmp_path / name) as temporary:
        temporary.write_text("text")
        assert temporary.name.startswith(".") and temporary != name_temporary(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
