"""What `--images` is taken for, and bad input."""

from pathlib import Path

import pytest

from data.errors import UserError
from data.sources.columns import Columns
from data.sources.opening import SourceOptions
from data.sources.record import find_change
from tests.data.sources.listing import (
    NOTHING,
    list_images,
    make_dataset,
    read_all,
    write_table,
    write_tar,
)


def test_a_folder(tmp_path: Path, photos: dict[str, bytes]) -> None:
    source, listing = list_images(tmp_path / "photos")
    assert [record.file_name for record in listing.records] == sorted(photos)
    assert read_all(source, listing.records) == [photos[name] for name in sorted(photos)]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("nowhere", NOTHING, "--images nowhere does not exist"),
        ("some/name", NOTHING, "use hf:some/name"),
        ("x.zip", NOTHING, "not a known kind"),
        ("empty.txt", NOTHING, "is empty"),
        ("mixed.txt", NOTHING, "lists 1 URLs among 2 lines"),
        ("binary.txt", NOTHING, "it is not UTF-8 text"),
        ("wrong.json", NOTHING, "has no image file"),
        ("wrong.parquet", NOTHING, "cannot be read as Parquet"),
        ("hf:", NOTHING, "names no data set"),
        (".", SourceOptions(split="test"), "--split cannot be used with --images"),
        (".", SourceOptions(streaming=True), "--streaming cannot be used with"),
        (".", SourceOptions(columns=Columns(image="x")), "a column cannot be used with"),
        ("urls.txt", SourceOptions(root=Path(".")), "--image-root cannot .* a list of URLs"),
        ("*.jpg", SourceOptions(root=Path(".")), "--image-root cannot be used with"),
        ("folder.json", SourceOptions(split="test"), "--split cannot be used with"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: str,
    options: SourceOptions,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.json").mkdir()
    Path("a.jpg").touch()
    Path("urls.txt").write_text("http://x/b.jpg\n")
    Path("x.zip").write_bytes(b"PK")
    Path("empty.txt").write_text("# nothing\n\n")
    Path("mixed.txt").write_text("a.jpg\nhttp://x/b.jpg\n")
    Path("binary.txt").write_bytes(b"a\0b\n")
    Path("wrong.json").write_text("[]")
    Path("wrong.parquet").write_text("text")
    with pytest.raises(UserError, match=message) as caught:
        list_images(images, options)
    assert "\n" not in str(caught.value)


def test_what_is_read_by_position_is_compared_with_its_record(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    fewer = dict(list(photos.items())[1:])
    rows = make_dataset(photos)
    rows.save_to_disk(tmp_path / "set")
    write_tar(tmp_path / "x.tar", photos)
    write_table(tmp_path / "x.parquet", photos)
    made = {
        name: list_images(f"{kind}{tmp_path}/{name}")[0]
        for kind, name in (("", "photos"), ("hf:", "set"), ("", "x.tar"), ("", "x.parquet"))
    }
    assert [find_change(source) for source in made.values()] == [None] * 4
    write_tar(tmp_path / "x.tar", fewer)
    write_table(tmp_path / "x.parquet", fewer)
    (tmp_path / "photos/new.png").write_bytes(photos["0000.png"])
    (tmp_path / "set/state.json").write_text("{}")
    expected = [None, *(str(tmp_path / name) for name in ("set", "x.tar", "x.parquet"))]
    assert [find_change(source) for source in made.values()] == expected
    (tmp_path / "x.tar").unlink()
    assert find_change(made["x.tar"]) is None
