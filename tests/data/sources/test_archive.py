"""Tar files and WebDatasets."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from captioner.run.session import caption
from data.dense.run import find_source
from data.dense.shards import read_rows
from data.errors import UserError
from data.images import ImageError
from data.sources.archive import read_abouts
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


@pytest.mark.parametrize("flat", [False, True])
def test_tar_files_that_lie_elsewhere_now(
    tmp_path: Path, photos: dict[str, bytes], flat: bool
) -> None:
    """Below the new folder as before, though two have the same name; or directly in it."""
    first, second = "a/x.tar", "b/y.tar" if flat else "b/x.tar"
    for name, photo in ((first, "0000.png"), (second, "0001.png")):
        (tmp_path / "old" / name).parent.mkdir(parents=True)
        write_tar(tmp_path / "old" / name, {photo: photos[photo]})
    source, listing = list_images(f"{tmp_path}/old/**/*.tar")
    if flat:
        (tmp_path / "new").mkdir()
        for name in (first, second):
            (tmp_path / "old" / name).rename(tmp_path / "new" / Path(name).name)
    else:
        (tmp_path / "old").rename(tmp_path / "new")
    run = {"source": source.to_dict()}
    found = find_source(run, where=tmp_path, images=tmp_path / "new")
    assert read_all(found, listing.records) == [photos["0000.png"], photos["0001.png"]]


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
    with pytest.raises(ImageError, match="cut off"):
        read_all(source, listing.records)


def test_links_are_the_images_that_they_lead_to(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """In the same archive; the others are counted."""
    links = [
        ("s/hard.png", tarfile.LNKTYPE, "./s/1.png"),
        ("s/soft.png", tarfile.SYMTYPE, "1.png"),
        ("t/up.png", tarfile.SYMTYPE, "../s/./soft.png"),
        ("t/out.png", tarfile.SYMTYPE, "../../s/1.png"),
        ("t/etc.png", tarfile.SYMTYPE, "/etc/hostname"),
        ("t/circle.png", tarfile.SYMTYPE, "circle.png"),
        ("t/label.txt", tarfile.SYMTYPE, "../s/1.png"),
    ]
    write_tar(tmp_path / "x.tar", {"s/1.png": photos["0000.png"]})
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    source, listing = list_images(tmp_path / "x.tar")
    names = [record.file_name for record in listing.records]
    assert names == [
        f"x.tar/{name}" for name in ("s/1.png", "s/hard.png", "s/soft.png", "t/up.png")
    ]
    assert read_all(source, listing.records) == [photos["0000.png"]] * 4
    (note,) = listing.notes
    assert note.startswith("3 links")


def test_many_archives_are_not_all_kept_open(tmp_path: Path, photos: dict[str, bytes]) -> None:
    for number in range(20):
        write_tar(tmp_path / f"x-{number:02d}.tar", {"1.png": photos["0000.png"]})
    source, listing = list_images(tmp_path / "x-{00..19}.tar")
    reader = ImageReader(source)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert {reader.read(record.address) for record in listing.records} == {photos["0000.png"]}
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 8
    reader.close()


def test_a_stale_archive_is_opened_again(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """After a restart of a file server, a descriptor never works again, but a new one does."""
    write_tar(tmp_path / "x.tar", {"1.png": photos["0000.png"]})
    source, listing = list_images(tmp_path / "x.tar")
    reader, address = ImageReader(source), listing.records[0].address
    assert reader.read(address) == photos["0000.png"]
    (descriptor,) = reader._tars.values()
    with (tmp_path / "unreadable").open("wb") as other:
        os.dup2(other.fileno(), descriptor, inheritable=False)
    with pytest.raises(OSError, match="descriptor"):
        os.pread(descriptor, 1, 0)
    assert reader.read(address) == photos["0000.png"]
    (tmp_path / "x.tar").unlink()
    assert reader.read(address) == photos["0000.png"], "it stays open"
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


def test_texts_of_an_export_are_not_what_people_wrote(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    """KEY.txt is the captioner's text, and KEY.json says so."""
    members = {}
    for key, said in {"1": [], "2": ["A person's."], "3": None}.items():
        about = {"run_id": "r", "status": "ok", "caption": "The model's.", "captions": said}
        members[f"{key}.png"] = photos["0000.png"]
        members[f"{key}.json"] = json.dumps(about).encode()
        members[f"{key}.txt"] = b"The model's."
    write_tar(tmp_path / "x.tar", members)
    said = captions_of(tmp_path / "x.tar")
    assert said == {"1.png": None, "2.png": ("A person's.",), "3.png": None}


def test_a_text_beside_a_json_too_large_to_read_may_be_of_an_export(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    large = json.dumps({"run_id": "r", "status": "ok", "caption": "x" * (1 << 20)}).encode()
    image = photos["0000.png"]
    members = {"1.png": image, "1.json": large, "1.txt": b"The model's."}
    members |= {"2.png": image, "2.txt": b"A person's.", "3.png": image, "3.json": large}
    members |= {"annotations.json": large}
    write_tar(tmp_path / "x.tar", members)
    source, listing = list_images(tmp_path / "x.tar")
    assert [record.captions for record in listing.records] == [None, ("A person's.",), None]
    assert [note for note in listing.notes if "1 .txt" in note and "too large" in note]
    assert listing.passed_over == {".json": 3} and len(listing.notes) == 1
    assert [about for _, about in read_abouts(source)] == [{}, {}, {}]


def captions_of(path: object) -> dict[str, tuple[str, ...] | None]:
    _, listing = list_images(path)
    return {record.file_name.partition(".tar/")[2]: record.captions for record in listing.records}


def test_names_with_dots_keep_their_own_texts(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """The key of a WebDataset ends at the first dot; the whole name decides before it."""
    colours = {"01": b"a red wall", "02": b"a green wall", "03": b"a blue wall"}
    members = {}
    for number, (day, text) in enumerate(colours.items()):
        stem = f"trip/IMG.2023.05.{day}"
        members[f"{stem}.png"] = photos["0000.png"]
        members[f"{stem}.txt"] = text
        members[f"{stem}.json"] = json.dumps({"image_id": float(number)}).encode()
    write_tar(tmp_path / "x.tar", members)
    _, listing = list_images(tmp_path / "x.tar")
    said = [(r.captions, r.image_id) for r in listing.records]
    assert said == [((text.decode(),), str(n)) for n, text in enumerate(colours.values())]


def test_texts_in_any_order_and_case(tmp_path: Path, photos: dict[str, bytes]) -> None:
    image = photos["0000.png"]
    write_tar(
        tmp_path / "x.tar",
        {"a.png": image, "b.JPG": image, "d.txt": b"no image", "B.txt": b"nor this"}
        | {"b.TXT": b"second", "a.txt": b"first", "c.Json": b'{"caption": "third"}', "c.png": image}
        | {"e.png.txt": b"fourth", "e.png": image},
    )
    said = captions_of(tmp_path / "x.tar")
    assert said == {
        "a.png": ("first",),
        "b.JPG": ("second",),
        "c.png": ("third",),
        "e.png": ("fourth",),
    }
    _, listing = list_images(tmp_path / "x.tar")
    assert any("2 texts" in note for note in listing.notes)


def test_a_part_of_a_name_ties_only_where_nothing_else_fits(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    image = photos["0000.png"]
    members = {"1.png": image, "1.en.txt": b"alone", "2.png": image, "2.en.txt": b"one of two"}
    members |= {"2.de.txt": b"the other", "3.a.png": image, "3.b.png": image, "3.txt": b"whose?"}
    members |= {"4.png": image, "4.seg.png": image, "4.txt": b"the photo's"}
    write_tar(tmp_path / "x.tar", members)
    said = captions_of(tmp_path / "x.tar")
    assert {name: texts for name, texts in said.items() if texts} == {
        "1.png": ("alone",),
        "4.png": ("the photo's",),
    }
    _, listing = list_images(tmp_path / "x.tar")
    assert any("3 texts" in note for note in listing.notes)


def test_what_is_whole_of_a_cut_archive_is_read(tmp_path: Path, photos: dict[str, bytes]) -> None:
    image = photos["0000.png"] * 40
    for number in range(4):
        members = {f"{n}.{kind}": image for n in range(4) for kind in ("png",)}
        write_tar(tmp_path / f"x-{number}.tar", members)
    cut, damaged = tmp_path / "x-1.tar", tmp_path / "x-2.tar"
    cut.write_bytes(cut.read_bytes()[: 3 * (512 + -(-len(image) // 512) * 512) + 700])
    broken = bytearray(damaged.read_bytes())
    start = 2 * (512 + -(-len(image) // 512) * 512)
    broken[start : start + 512] = b"\xff" * 512
    damaged.write_bytes(broken)
    (tmp_path / "x-3.tar").write_bytes(b"")
    source, listing = list_images(tmp_path / "x-{0..3}.tar")
    names = [record.file_name for record in listing.records]
    assert names == [
        *(f"x-{shard}.tar/{n}.png" for shard in (0, 1) for n in range(4)),
        *(f"x-2.tar/{n}.png" for n in range(2)),
    ]
    for shard, word in ((1, "cut off"), (2, "damaged"), (3, "empty")):
        assert sum(f"x-{shard}.tar" in note and word in note for note in listing.notes) == 1
    assert read_all(source, (*listing.records[:7], *listing.records[8:])) == [image] * 9
    with pytest.raises(ImageError, match="cut off"):
        read_all(source, listing.records[7:8])
    with pytest.raises(UserError, match="empty.*leave it out of --images"):
        list_images(tmp_path / "x-3.tar")


def test_an_archive_that_is_none_is_named(tmp_path: Path, photos: dict[str, bytes]) -> None:
    (tmp_path / "x.tar").write_text("<html><body>Not found</body></html>")
    with pytest.raises(UserError, match="an HTML page"):
        list_images(tmp_path / "x.tar")
    write_tar(tmp_path / "y.tar", {"a.png": photos["0000.png"]})
    _, listing = list_images(tmp_path / "[xy].tar")
    assert len(listing.records) == 1 and "an HTML page" in listing.notes[0]


def test_companions_are_no_images(tmp_path: Path, photos: dict[str, bytes]) -> None:
    image = photos["0000.png"]
    names = ["a/b.png", "a/._b.png", "__MACOSX/a/b.png", "a/@eaDir/b.png/SYNO.png", "./c.png"]
    write_tar(tmp_path / "x.tar", dict.fromkeys(names, image))
    assert list(captions_of(tmp_path / "x.tar")) == ["a/b.png", "./c.png"]


def test_archives_of_one_name_in_two_folders(tmp_path: Path, photos: dict[str, bytes]) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "x.tar", {"1.png": photos["0000.png"]})
    _, listing = list_images(tmp_path / "*" / "x.tar")
    assert [r.file_name for r in listing.records] == ["a/x.tar/1.png", "b/x.tar/1.png"]


def test_another_spelling_ties_where_it_is_alone(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """macOS decomposes letters; `tar c .` writes ./ before names."""
    image = photos["0000.png"]
    members = {
        "e\u0301.png": image,
        "\xe9.txt": b"decomposed",
        "./b.png": image,
        "b.txt": b"dotted",
    }
    members |= {"x/c.png": image, "y/c.png": image, "y/c.jpg": image, "c.txt": b"whose?"}
    write_tar(tmp_path / "x.tar", members)
    said = captions_of(tmp_path / "x.tar")
    assert {name: texts for name, texts in said.items() if texts} == {
        "e\u0301.png": ("decomposed",),
        "./b.png": ("dotted",),
    }
    _, listing = list_images(tmp_path / "x.tar")
    assert any("matched by" in note for note in listing.notes)
    assert any("1 texts" in note for note in listing.notes)


def test_two_images_share_no_text(tmp_path: Path, photos: dict[str, bytes]) -> None:
    image = photos["0000.png"]
    members = {"a.png": image, "a.jpg": image, "a.txt": b"whose?", "a.json": b'{"id": 1}'}
    members |= {"b.png": image, "b.jpg": image, "b.jpg.txt": b"its own", "b.txt": b"the other's"}
    write_tar(tmp_path / "x.tar", members)
    assert captions_of(tmp_path / "x.tar") == {
        "a.png": None,
        "a.jpg": None,
        "b.png": ("the other's",),
        "b.jpg": ("its own",),
    }


def test_members_that_come_again_or_cannot_be_read_are_counted(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    image = photos["0000.png"]
    write_tar(tmp_path / "x.tar", {"a.png": image, "a.txt": "caf\xe9".encode("cp1252")})
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        for name, content in (("a.png", photos["0001.png"]), ("a.json", b"{broken")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    source, listing = list_images(tmp_path / "x.tar")
    assert [record.captions for record in listing.records] == [None]
    assert read_all(source, listing.records) == [photos["0001.png"]]
    assert any("1 members" in note for note in listing.notes)
    assert any("2 texts" in note and "UTF-8" in note for note in listing.notes)
