"""A folder of images: every file once, in one order, whatever lies in it."""

import os
from pathlib import Path

import pytest

from data.errors import UserError
from data.sources.files import list_folder


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names_of(folder: Path, **options: list[Path]) -> list[str]:
    return [record.file_name for record in list_folder(folder, **options).records]


def test_recursive_and_ordered_by_relative_path(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/z.png", "a-b/c.JPG", "a.webp", "a/b/c.jpeg")
    assert names_of(tmp_path) == ["a-b/c.JPG", "a.webp", "a/b/c.jpeg", "a/z.png", "b.jpg"]


def test_the_same_name_in_two_folders_is_two_images(tmp_path: Path) -> None:
    touch(tmp_path, "one/0.jpg", "two/0.jpg")
    records = list_folder(tmp_path).records
    assert [record.file_name for record in records] == ["one/0.jpg", "two/0.jpg"]
    assert len({record.sample_id for record in records}) == 2


def test_an_id_depends_on_the_relative_path_alone(tmp_path: Path) -> None:
    touch(tmp_path / "here", "a/0.jpg", "b.jpg")
    touch(tmp_path / "there", "a/0.jpg")
    here = {r.file_name: r.sample_id for r in list_folder(tmp_path / "here").records}
    there = {r.file_name: r.sample_id for r in list_folder(tmp_path / "there").records}
    assert here["a/0.jpg"] == there["a/0.jpg"]


def test_other_files_are_counted_and_hidden_ones_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "notes.txt", "b.json", "c.TXT", "LICENSE", ".c.jpg", ".git/d.jpg")
    touch(tmp_path, "@eaDir/a.jpg/M.jpg", "x/Thumbs.db", "__MACOSX/._a.jpg", "$RECYCLE.BIN/b.jpg")
    listing = list_folder(tmp_path)
    assert [record.file_name for record in listing.records] == ["a.jpg"]
    assert listing.passed_over == {".txt": 2, "": 1, ".json": 1}


def test_loops_of_links_end_and_real_folders_keep_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "z/0.jpg")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    (tmp_path / "z" / "up").symlink_to(tmp_path)
    (tmp_path / "z" / "self").symlink_to(tmp_path / "z" / "self")
    assert names_of(tmp_path) == ["z/0.jpg"]


def test_a_linked_folder_elsewhere_is_entered(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "0.jpg")
    touch(tmp_path / "images", "1.jpg")
    (tmp_path / "images" / "more").symlink_to(tmp_path / "elsewhere")
    assert names_of(tmp_path / "images") == ["1.jpg", "more/0.jpg"]


def test_what_only_looks_like_an_image_is_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.jpg").mkdir()
    touch(tmp_path, "folder.jpg/inner.jpg")
    assert names_of(tmp_path) == ["dead.jpg", "folder.jpg/inner.jpg", "pipe.jpg"]


def test_hostile_names_are_told_and_found_again(tmp_path: Path) -> None:
    hostile = [b"new\nline.jpg", b"\xff\xfe.jpg", b"<script>.jpg", "ü.jpg".encode(), b"\\xff.jpg"]
    for name in hostile:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(name)
    records = list_folder(tmp_path).records
    assert {record.locate(tmp_path).read_bytes() for record in records} == set(hostile)
    assert len({record.sample_id for record in records}) == len(hostile)
    for record in records:
        record.file_name.encode("utf-8")


def test_our_outputs_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "dense/x/sheet.png")
    assert names_of(tmp_path, exclude=[tmp_path / "dense"]) == ["a.jpg"]


def test_missing_empty_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list_folder(tmp_path / "none")
    with pytest.raises(UserError, match="no images in"):
        list_folder(tmp_path)
    touch(tmp_path, "notes.txt")
    with pytest.raises(UserError, match=r"no images in .* the 1 files there"):
        list_folder(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        list_folder(tmp_path / "notes.txt")
