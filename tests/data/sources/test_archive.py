"""Tar files and WebDatasets."""

import json
from pathlib import Path

import pytest

from captioner.run.session import caption
from data.dense.shards import read_rows
from data.errors import UserError
from data.images import ImageError
from data.sources.reader import ImageReader
from tests.data.sources.listing import (
    list_images,
    read_all,
    write_tar,
)


def test_tar_files_as_webdatasets_have_them(tmp_path: Path, photos: dict[str, bytes]) -> None:
    first = {
        "s/1.png": photos["0000.png"],
        "s/1.txt": b"a  person's words",
        "s/2.json": json.dumps({"caption": "of two", "url": "http://x/2", "image_id": 22}).encode(),
        "s/2.png": photos["0001.png"],
        "s/2.cls": b"7",
    }
    write_tar(tmp_path / "x-000.tar", first)
    write_tar(tmp_path / "x-001.tar", {"s/1.png": photos["0002.png"], "s/3.json": b"{broken"})
    source, listing = list_images(tmp_path / "x-{000..001}.tar")
    names = [record.file_name for record in listing.records]
    assert names == ["x-000.tar/s/1.png", "x-000.tar/s/2.png", "x-001.tar/s/1.png"]
    one, two, three = listing.records
    assert (one.captions, two.captions, three.captions) == (
        ("a person's words",),
        ("of two",),
        None,
    )
    assert (two.image_id, two.image_url) == ("22", "http://x/2")
    assert listing.passed_over == {".cls": 1}
    expected = [photos[name] for name in ("0000.png", "0001.png", "0002.png")]
    assert read_all(source, listing.records) == expected
    _, globbed = list_images(tmp_path / "x-*.tar")
    assert globbed.records == listing.records


def test_tar_files_that_cannot_be_used(tmp_path: Path, photos: dict[str, bytes]) -> None:
    write_tar(tmp_path / "z.tar", {"1.png": photos["0000.png"]}, mode="w:gz")
    with pytest.raises(UserError, match="unpack it if it is compressed"):
        list_images(tmp_path / "z.tar")
    (tmp_path / "text.tar").write_text("text")
    with pytest.raises(UserError, match="cannot be read as a tar file"):
        list_images(tmp_path / "text.tar")
    write_tar(tmp_path / "none.tar", {"1.txt": b"x"})
    with pytest.raises(UserError, match="no images in"):
        list_images(tmp_path / "none.tar")
    with pytest.raises(UserError, match=r"x-001.tar does not exist"):
        list_images(tmp_path / "x-{001..002}.tar")
    write_tar(tmp_path / "cut.tar", {"1.png": photos["0000.png"] * 200})
    source, listing = list_images(tmp_path / "cut.tar")
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="is shorter than it was"):
        read_all(source, listing.records)


def test_many_archives_are_not_all_kept_open(tmp_path: Path, photos: dict[str, bytes]) -> None:
    for number in range(20):
        write_tar(tmp_path / f"x-{number:02d}.tar", {"1.png": photos["0000.png"]})
    source, listing = list_images(tmp_path / "x-{00..19}.tar")
    reader = ImageReader(source)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert {reader.read(record.address) for record in listing.records} == {photos["0000.png"]}
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 8
    reader.close()


def test_odd_metadata_does_not_stop_a_run(tmp_path: Path, photos: dict[str, bytes]) -> None:
    members = {
        "1.png": photos["0000.png"],
        "1.json": b'{"caption": "half a pair \\ud83d", "url": "http://x/\\ud83d"}',
        "2.png": photos["0001.png"],
        "2.json": b'{"captions": 7, "caption": {"a": 1}}',
        "3.png": photos["0002.png"],
        "3.json": b"[" * 100_000,
    }
    write_tar(tmp_path / "x.tar", members)
    result = caption(
        model="any", engine="scripted", images=tmp_path / "x.tar", out=tmp_path / "out"
    )
    rows = read_rows(tmp_path / "out").to_pylist()
    assert result.ok == 3 and [row["captions"] for row in rows] == [["half a pair ?"], None, None]
