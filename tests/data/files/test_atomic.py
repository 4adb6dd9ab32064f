"""Folders that are whole or not there."""

from pathlib import Path

import pytest

from data.files.atomic import replace_folder


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
