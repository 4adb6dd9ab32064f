"""Patterns and lists of paths."""

from pathlib import Path

import pytest

from data.errors import UserError
from data.images import ImageError
from data.sources.files import match_files
from data.sources.opening import SourceOptions
from tests.data.sources.listing import list_images, read_all


def test_a_pattern(tmp_path: Path, photos: dict[str, bytes]) -> None:
    (tmp_path / "photos" / "notes.txt").write_text("x")
    source, listing = list_images(tmp_path / "photos" / "**" / "*[0-1].*")
    wanted = ["0000.png", "0001.png", "b/0000.png", "b/0001.png"]
    assert [record.file_name for record in listing.records] == wanted
    assert read_all(source, listing.records) == [photos[name] for name in wanted]
    # The same image has the same id as by its folder.
    _, whole = list_images(tmp_path / "photos")
    ids = {record.file_name: record.sample_id for record in whole.records}
    assert [record.sample_id for record in listing.records] == [ids[name] for name in wanted]
    with pytest.raises(UserError, match="no file matches"):
        list_images(tmp_path / "photos" / "*.bmp")
    with pytest.raises(UserError, match="none of the 1 files that match .* is an image"):
        list_images(tmp_path / "photos" / "*.txt")


def test_a_pattern_enters_each_real_folder_once(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """Two links to a folder from within double its images at each of forty levels."""
    folder = tmp_path / "x"
    for name in ("a/1.png", "b/.hidden/2.png", "b/c/d/3.png", "b/c/4.tif", "5.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photos["0000.png"])

    def match(pattern: str) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in match_files(pattern)]

    deep = ["x/5.png", "x/a/1.png", "x/b/c/d/3.png"]
    for link in ("a/again", "b/again", "0"):
        (folder / link).symlink_to(folder)
        assert match(f"{tmp_path}/x/**/*.png") == deep
    (tmp_path / "elsewhere").symlink_to(folder / "b")
    assert match(f"{tmp_path}/**/[1-5].png") == deep
    assert match(f"{tmp_path}/*/**/[1-4].*") == ["x/a/1.png", "x/b/c/4.tif", "x/b/c/d/3.png"]
    assert match(f"{tmp_path}/x/**/c/**") == ["x/b/c/4.tif", "x/b/c/d/3.png"]
    assert match(f"{tmp_path}/elsewhere/**/d/*.png") == ["elsewhere/c/d/3.png"]
    # Without `**`, the pattern says how often links are followed.
    assert match(f"{tmp_path}/x/*/a/1.png") == ["x/0/a/1.png"]


def test_a_pattern_matches_the_names_of_links(tmp_path: Path) -> None:
    """Below `**` too; the files of two names of a folder are the same files."""
    for name in ("all", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").touch()
    (tmp_path / "train").symlink_to(tmp_path / "all")
    (tmp_path / "all/up").symlink_to(tmp_path)
    (tmp_path / "other/over").symlink_to(tmp_path / "all")

    def match(pattern: str) -> list[str]:
        found = match_files(f"{tmp_path}/{pattern}")
        return [path.relative_to(tmp_path).as_posix() for path in found]

    assert match("**/train/*.jpg") == ["train/a.jpg"]
    assert match("**/o*/**/a.jpg") == ["other/a.jpg", "other/over/a.jpg"]
    assert match("**/*.jpg") == ["all/a.jpg", "other/a.jpg"]


def test_a_pattern_in_the_current_folder(
    tmp_path: Path, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "photos")
    for pattern, before in (
        ("**/0000.png", ""),
        ("./**/0000.png", ""),
        ("../*/**/0000.png", "../photos/"),
    ):
        found = [str(path) for path in match_files(pattern)]
        assert found == [f"{before}0000.png", f"{before}b/0000.png"]


def test_a_list_keeps_its_order_and_says_what_is_there_twice(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    path = tmp_path / "photos" / "list.txt"
    path.write_text("# mine\n0003.png\nb/0000.png\r\n\n0001.png\n./0003.png\nnot there.png\n")
    source, listing = list_images(path)
    names = [record.file_name for record in listing.records]
    assert names == ["0003.png", "b/0000.png", "0001.png", "not there.png"]
    assert listing.notes[0] == "1 lines of list.txt repeat an earlier one"
    assert "1 lines" in listing.notes[1] and "comments" in listing.notes[1]
    assert read_all(source, listing.records[:3]) == [photos[name] for name in names[:3]]
    with pytest.raises(ImageError, match="does not exist"):
        read_all(source, listing.records[3:])


def test_a_list_of_paths_anywhere(tmp_path: Path, photos: dict[str, bytes]) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{tmp_path}/photos/0000.png\n../{tmp_path.name}/photos/0001.png\n")
    source, listing = list_images(path, SourceOptions(root=tmp_path / "photos" / "b"))
    assert read_all(source, listing.records[:1]) == [photos["0000.png"]]
    inside, there = list_images(path)
    assert [record.file_name for record in there.records] == ["photos/0000.png", "photos/0001.png"]
    assert read_all(inside, there.records) == [photos["0000.png"], photos["0001.png"]]


def test_names_that_begin_like_a_comment(tmp_path: Path, photos: dict[str, bytes]) -> None:
    for name in ("#beach.png", "a.png"):
        (tmp_path / name).write_bytes(photos["0000.png"])
    (tmp_path / "list.txt").write_text("# two photos\n#beach.png\na.png\n")
    _, listing = list_images(tmp_path / "list.txt")
    assert [record.file_name for record in listing.records] == ["#beach.png", "a.png"]
    assert len(listing.notes) == 1 and "1 lines" in listing.notes[0]


def test_a_pattern_passes_over_what_other_tools_leave(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    for name in ("a/b.png", "a/@eaDir/b.png/SYNO_M.png", "__MACOSX/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photos["0000.png"])
    _, listing = list_images(tmp_path / "**" / "*.png")
    assert "a/b.png" in [record.file_name for record in listing.records]
    assert not any("@eaDir" in r.file_name or "MACOSX" in r.file_name for r in listing.records)


def test_a_list_as_other_systems_write_it(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """A mark, Windows' ends and separators, blanks around names: unless a name has them."""
    folder = tmp_path / "photos"
    (folder / " c.png").write_bytes(photos["0001.png"])
    text = "\ufeff0000.png \r\n\r\n \t\r\n\t0001.png\r\nb\\0001.png\t\r\n c.png\r\n"
    (folder / "list.txt").write_bytes(text.encode())
    source, listing = list_images(folder / "list.txt")
    names = ["0000.png", "0001.png", "b/0001.png", " c.png"]
    assert [record.file_name for record in listing.records] == names
    assert len(read_all(source, listing.records)) == 4


def test_a_list_of_addresses_as_other_systems_write_it(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(
        "\ufeffhttps://a.example/1.jpg \r\n\r\n\tHTTP://a.example/2.jpg\t\r\n".encode()
    )
    source, listing = list_images(path)
    assert source.kind == "urls"
    names = ["https://a.example/1.jpg", "HTTP://a.example/2.jpg"]
    assert [record.file_name for record in listing.records] == names
    assert [record.image_url for record in listing.records] == names


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s3://bucket/1.jpg", "only http and https"),
        ("file:///photos/1.jpg", "only http and https"),
        ("https://a.example/1.jpg\tA dog.", "more than a URL"),
        ("image,caption\n1.jpg,A dog.", "table of captions"),
        ("1.jpg#0\tA dog.", "table of captions"),
        ("elsewhere/1.jpg", "--image-root"),
    ],
)
def test_what_is_no_list_of_images_is_said(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=message):
        list_images(tmp_path / "list.txt")
