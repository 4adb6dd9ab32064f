"""Every kind of `--images`: what is listed, in which order, and the bytes that come of it."""

import io
import json
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.decode_pool import Job
from captioner.engines.scripted import ScriptedEngine
from captioner.job_stream import attach_images
from captioner.prepare import prepare_caption
from captioner.run import caption, run_prepared
from data.errors import UserError
from data.images import ImageError
from data.shards import read_captions, read_run
from data.sources import ImageRecord, Source
from data.sources.choice import SourceOptions, list_source, open_source
from data.sources.columns import Columns
from data.sources.reading import ImageReader
from tests.captioner.images import write_images

NOTHING = SourceOptions()


def list_images(images: object, options: SourceOptions = NOTHING) -> tuple[Source, Any]:
    source = open_source(str(images), options)
    return source, list_source(source, options)


def read_all(source: Source, records: tuple[ImageRecord, ...]) -> list[bytes]:
    reader = ImageReader(Source.from_dict(json.loads(json.dumps(source.to_dict()))))
    try:
        return [reader.read(record.address) for record in records]
    finally:
        reader.close()


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, bytes]:
    """Six images in tmp_path/photos and its folder `b`."""
    folder = tmp_path / "photos"
    names = write_images(folder, 4) + write_images(folder, 2, prefix="b/")
    return {name: (folder / name).read_bytes() for name in names}


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_a_folder(tmp_path: Path, photos: dict[str, bytes]) -> None:
    source, listing = list_images(tmp_path / "photos")
    assert [record.file_name for record in listing.records] == sorted(photos)
    assert read_all(source, listing.records) == [photos[name] for name in sorted(photos)]


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


def test_a_list_keeps_its_order_and_says_what_is_there_twice(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    path = tmp_path / "photos" / "list.txt"
    path.write_text("# mine\n0003.png\nb/0000.png\r\n\n0001.png\n./0003.png\nnot there.png\n")
    source, listing = list_images(path)
    names = [record.file_name for record in listing.records]
    assert names == ["0003.png", "b/0000.png", "0001.png", "not there.png"]
    assert listing.notes == ("1 lines of list.txt repeat an earlier one",)
    assert read_all(source, listing.records[:3]) == [photos[name] for name in names[:3]]
    with pytest.raises(ImageError, match="not there"):
        read_all(source, listing.records[3:])


def test_a_list_of_paths_anywhere(tmp_path: Path, photos: dict[str, bytes]) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{tmp_path}/photos/0000.png\n../{tmp_path.name}/photos/0001.png\n")
    source, listing = list_images(path, SourceOptions(root=tmp_path / "photos" / "b"))
    assert read_all(source, listing.records[:1]) == [photos["0000.png"]]
    inside, there = list_images(path)
    assert [record.file_name for record in there.records] == ["photos/0000.png", "photos/0001.png"]
    assert read_all(inside, there.records) == [photos["0000.png"], photos["0001.png"]]


def test_karpathys_json(tmp_path: Path, photos: dict[str, bytes]) -> None:
    images = [
        {"filename": "0001.png", "split": "test", "imgid": 7, "sentences": [{"raw": "two  words"}]},
        {
            "filename": "0000.png",
            "filepath": "b",
            "split": "restval",
            "cocoid": 9,
            "sentences": [{"raw": "one"}, {"raw": "more"}],
        },
    ]
    path = tmp_path / "photos" / "dataset_x.json"
    path.write_text(json.dumps({"images": images}))
    source, listing = list_images(path)
    first, second = listing.records
    assert (first.file_name, first.image_id, first.split) == ("0001.png", "7", "test")
    assert (second.file_name, second.image_id, second.split) == ("b/0000.png", "9", "train")
    assert (first.captions, second.captions) == (("two words",), ("one", "more"))
    assert read_all(source, listing.records) == [photos["0001.png"], photos["b/0000.png"]]
    _, train = list_images(path, SourceOptions(split="train"))
    assert [record.file_name for record in train.records] == ["b/0000.png"]
    with pytest.raises(UserError, match="no image in the split val"):
        list_images(path, SourceOptions(split="val"))
    with pytest.raises(UserError, match="name their folder with --image-root"):
        list_images(path, SourceOptions(root=tmp_path))


def test_annotations_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "a/../../x.jpg"):
        row = {"filename": name, "split": "test", "sentences": [{"raw": "x"}]}
        (tmp_path / "d.json").write_text(json.dumps({"images": [row]}))
        with pytest.raises(UserError, match="outside the images' folder"):
            list_images(tmp_path / "d.json")


def test_cocos_json(tmp_path: Path, photos: dict[str, bytes]) -> None:
    about = {
        "images": [{"id": 3, "file_name": "0002.png"}, {"id": 4, "file_name": "0003.png"}],
        "annotations": [
            {"image_id": 4, "caption": "four"},
            {"image_id": 3, "caption": "three"},
            {"image_id": 3, "caption": "drei"},
        ],
    }
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps(about))
    source, listing = list_images(path, SourceOptions(root=tmp_path / "photos"))
    assert [record.image_id for record in listing.records] == ["3", "4"]
    assert listing.records[0].captions == ("three", "drei")
    assert read_all(source, listing.records) == [photos["0002.png"], photos["0003.png"]]


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


def write_table(path: Path, photos: dict[str, bytes], **columns: Any) -> None:
    images = [{"bytes": content, "path": name} for name, content in photos.items()]
    table = pa.table({"image": images, **columns})
    pq.write_table(table, path, row_group_size=4)


def test_parquet_with_images(tmp_path: Path, photos: dict[str, bytes]) -> None:
    captions = [[f"of {name}", "again"] for name in photos]
    write_table(tmp_path / "a.parquet", photos, image_id=list(range(6)), captions=captions)
    source, listing = list_images(tmp_path / "a.parquet")
    assert [record.file_name for record in listing.records] == list(photos)
    assert [record.image_id for record in listing.records] == list("012345")
    assert listing.records[1].captions == ("of 0001.png", "again")
    assert read_all(source, listing.records) == list(photos.values())
    # In any order, over the borders of row groups.
    assert read_all(source, listing.records[::-1]) == list(photos.values())[::-1]


def test_parquet_with_columns_of_its_own_names(tmp_path: Path, photos: dict[str, bytes]) -> None:
    table = {"raw": list(photos.values()), "said": [f"of {name}" for name in photos]}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"no column of images \(its columns are raw, said\)"):
        list_images(tmp_path / "b.parquet")
    options = SourceOptions(columns=Columns(image="raw", captions="said"))
    source, listing = list_images(tmp_path / "b.parquet", options)
    assert listing.records[2].captions == ("of 0002.png",)
    assert len({record.sample_id for record in listing.records}) == 6
    assert read_all(source, listing.records) == list(photos.values())
    wrong = SourceOptions(columns=Columns(image="jpg"))
    with pytest.raises(UserError, match="has no column 'jpg'; it has raw, said"):
        list_images(tmp_path / "b.parquet", wrong)


def test_two_rows_of_one_id_are_refused(tmp_path: Path, photos: dict[str, bytes]) -> None:
    write_table(tmp_path / "a.parquet", photos, image_id=[1, 2, 3, 1, 5, 6])
    with pytest.raises(UserError, match="two images have the same name or id: 0000.png and 0003"):
        list_images(tmp_path / "a.parquet")


def make_dataset(photos: dict[str, bytes]) -> datasets.Dataset:
    rows = {
        "image": [{"bytes": content, "path": None} for content in photos.values()],
        "text": [f"of {name}" for name in photos],
    }
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("kind", ["saved", "parquet folder", "streamed"])
def test_a_data_set(tmp_path: Path, photos: dict[str, bytes], kind: str) -> None:
    made = make_dataset(photos)
    if kind == "saved":
        made.save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set" / "data").mkdir(parents=True)
        made.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    options = SourceOptions(streaming=kind == "streamed")
    source, listing = list_images(f"hf:{tmp_path / 'set'}", options)
    assert [record.captions for record in listing.records] == [(f"of {n}",) for n in photos]
    if kind != "streamed":
        assert read_all(source, listing.records[::-1]) == list(photos.values())[::-1]
        return
    jobs = [Job(number, record.address) for number, record in enumerate(listing.records)]
    wanted = [jobs[1], jobs[4], jobs[5]]
    given = list(attach_images(iter(wanted), source))
    assert [job.key for job in given] == [1, 4, 5]
    assert [job.content for job in given] == [list(photos.values())[n] for n in (1, 4, 5)]


def test_data_sets_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the data set nobody/nothing cannot be loaded"):
        list_images("hf:nobody/nothing")
    table = datasets.Dataset.from_dict({"text": ["a"]})
    table.save_to_disk(tmp_path / "text")
    with pytest.raises(UserError, match="has no column of images"):
        list_images(f"hf:{tmp_path / 'text'}", SourceOptions(columns=Columns(captions="text")))


class Photos(BaseHTTPRequestHandler):
    """/ok/N gives a photo, /busy/N only the second time, /gone/N never."""

    photos: list[bytes] = []
    seen: list[str] = []

    def do_GET(self) -> None:
        _, kind, number = self.path.split("/")
        first = self.path not in self.seen
        self.seen.append(self.path)
        if kind == "gone":
            self.send_error(404)
        elif kind == "busy" and first:
            self.send_response(429)
            self.send_header("Retry-After", "0")
            self.end_headers()
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.photos[int(number)])

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(photos: dict[str, bytes]) -> Iterator[str]:
    Photos.photos, Photos.seen = list(photos.values()), []
    served = ThreadingHTTPServer(("127.0.0.1", 0), Photos)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def test_addresses(tmp_path: Path, photos: dict[str, bytes], server: str) -> None:
    path = tmp_path / "urls.txt"
    path.write_text(f"{server}/ok/0\n{server}/busy/1\n{server}/gone/2\n{server}/ok/3\n")
    source, listing = list_images(path)
    assert [record.image_url for record in listing.records] == path.read_text().split()
    found = read_all(source, listing.records[:2] + listing.records[3:])
    assert found == [list(photos.values())[number] for number in (0, 1, 3)]
    with pytest.raises(ImageError, match="cannot be fetched: HTTP 404"):
        read_all(source, listing.records[2:3])
    assert Photos.seen.count("/gone/2") == 1


def test_a_whole_run_from_addresses(tmp_path: Path, photos: dict[str, bytes], server: str) -> None:
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{server}/ok/{number}\n" for number in range(6)) + f"{server}/gone/9")
    result = caption(model="any", engine="scripted", images=path, out=tmp_path / "out")
    assert result.statuses == {"decode_error": 1, "ok": 6}
    rows = read_captions(tmp_path / "out").to_pylist()
    assert rows[6]["error"] == "cannot be fetched: HTTP 404 Not Found"
    assert rows[0]["image_url"] == f"{server}/ok/0"


def test_other_schemes_are_never_fetched() -> None:
    with pytest.raises(ImageError, match="only http and https"):
        ImageReader(Source("urls")).read(b"url:file:///etc/passwd")


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("nowhere", NOTHING, "--images nowhere does not exist"),
        ("some/name", NOTHING, "a data set of the Hub is written hf:some/name"),
        ("x.zip", NOTHING, "is a file of no known kind"),
        ("empty.txt", NOTHING, "is empty"),
        ("mixed.txt", NOTHING, "lists 1 addresses among 2 lines"),
        ("binary.txt", NOTHING, "it is no text"),
        ("wrong.json", NOTHING, "neither Karpathy's JSON"),
        ("wrong.parquet", NOTHING, "cannot be read as Parquet"),
        (".", SourceOptions(split="test"), "--split does not go with --images"),
        (".", SourceOptions(streaming=True), "--streaming does not go with"),
        (".", SourceOptions(columns=Columns(image="x")), "a column does not go with"),
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
    Path("x.zip").write_bytes(b"PK")
    Path("empty.txt").write_text("# nothing\n\n")
    Path("mixed.txt").write_text("a.jpg\nhttp://x/b.jpg\n")
    Path("binary.txt").write_bytes(b"a\0b\n")
    Path("wrong.json").write_text("[]")
    Path("wrong.parquet").write_text("text")
    with pytest.raises(UserError, match=message) as caught:
        list_images(images, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tar", "parquet", "streamed"])
def test_whole_runs_take_up_where_they_were_left(
    tmp_path: Path, photos: dict[str, bytes], kind: str
) -> None:
    images: object
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "shard_size": 4}
    if kind == "tar":
        write_tar(tmp_path / "x.tar", photos)
        images = tmp_path / "x.tar"
    elif kind == "parquet":
        write_table(tmp_path / "x.parquet", photos, caption=list(photos))
        images = tmp_path / "x.parquet"
    else:
        (tmp_path / "set" / "data").mkdir(parents=True)
        made = make_dataset(photos)
        made.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
        images, arguments["streaming"] = f"hf:{tmp_path / 'set'}", True
    done: list[int] = []
    prepared = prepare_caption(images=str(images), out=tmp_path / "out", **arguments)
    # Two at a time, so that a stop finds work undone.
    choice = replace(prepared.choice, start=lambda _: ScriptedEngine(window=2))
    first = run_prepared(
        replace(prepared, choice=choice),
        stop=lambda: len(done) > 2,
        on_progress=lambda progress: done.append(progress.done),
    )
    assert first.interrupted and 0 < first.done < 6
    again = caption(images=str(images), out=tmp_path / "out", **arguments)
    assert again.complete and again.generated == 6 - first.done
    rows = read_captions(tmp_path / "out").to_pylist()
    assert len(rows) == 6 and {row["status"] for row in rows} == {"ok"}
    assert read_run(tmp_path / "out")["images_given"] == str(images)
    if kind != "tar":
        assert all(row["captions"] for row in rows)
    with pytest.raises(UserError, match="holds a run of another source"):
        caption(
            images=tmp_path / "photos", out=tmp_path / "out", **(arguments | {"streaming": False})
        )


def test_a_table_cannot_name_pictures_elsewhere(tmp_path: Path, photos: dict[str, bytes]) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "own.png").write_bytes(photos["0001.png"])
    secret = tmp_path / "photos" / "0000.png"
    paths = ["own.png", str(secret), "../photos/0000.png", str(tmp_path / "set" / "own.png")]
    table = pa.table({"image": paths, "file_name": [f"{n}.png" for n in range(4)]})
    pq.write_table(table, tmp_path / "set" / "x.parquet")
    source, listing = list_images(tmp_path / "set" / "x.parquet")
    reader = ImageReader(source)
    own = photos["0001.png"]
    for record, content in zip(listing.records, [own, None, None, own], strict=True):
        if content is None:
            with pytest.raises(ImageError, match="names a file elsewhere"):
                reader.read(record.address)
        else:
            assert reader.read(record.address) == content


def test_a_folder_of_images_as_a_data_set(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """The library gives absolute paths then; they lie in the data set's own folder."""
    source, listing = list_images(f"hf:{tmp_path / 'photos'}")
    assert sorted(read_all(source, listing.records)) == sorted(photos.values())


@pytest.mark.parametrize("kind", ["tar", "parquet", "folder of a data set"])
def test_a_source_that_changed_is_not_gone_on_with(
    tmp_path: Path, photos: dict[str, bytes], kind: str
) -> None:
    """Its rows are found by their place: the others would get each other's texts."""
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "out": tmp_path / "out"}
    fewer = dict(list(photos.items())[1:])

    def write(content: dict[str, bytes]) -> str:
        if kind == "tar":
            write_tar(tmp_path / "x.tar", content)
            return str(tmp_path / "x.tar")
        (tmp_path / "set").mkdir(exist_ok=True)
        write_table(tmp_path / "set" / "x.parquet", content)
        return str(tmp_path / "set" / "x.parquet") if kind == "parquet" else f"hf:{tmp_path}/set"

    stopped = caption(images=write(photos), stop=lambda: True, **arguments)
    assert stopped.interrupted
    with pytest.raises(UserError, match="is not what it was when the run in .* began"):
        caption(images=write(fewer), **arguments)
    assert caption(images=write(photos), **arguments).complete


def test_a_stream_can_be_read_again(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """Ranks take shards in an order of their own."""
    (tmp_path / "set").mkdir()
    make_dataset(photos).to_parquet(tmp_path / "set" / "x.parquet")
    source, listing = list_images(f"hf:{tmp_path / 'set'}", SourceOptions(streaming=True))
    jobs = [Job(number, record.address) for number, record in enumerate(listing.records)]
    order = [0, 1, 4, 5, 2, 3]
    given = list(attach_images(iter([jobs[number] for number in order]), source))
    assert [job.content for job in given] == [list(photos.values())[number] for number in order]


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
    rows = read_captions(tmp_path / "out").to_pylist()
    assert result.ok == 3 and [row["captions"] for row in rows] == [["half a pair ?"], None, None]


def test_nothing_to_caption_is_said_before_anything_is_written(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    write_table(tmp_path / "none.parquet", {})
    path = tmp_path / "gone.txt"
    path.write_text("a.jpg\nb.jpg\n")
    secret = tmp_path / "secret.txt"
    secret.write_text("http://me:word@host/a.jpg\n")
    for images, message in (
        (tmp_path / "none.parquet", "no column of images|holds no images"),
        (path, "none of the 2 files that .* lists is there"),
        (secret, "holds a user name or a password"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            caption(model="any", engine="scripted", images=images, out=tmp_path / "out")
        assert "word@" not in str(caught.value) and not (tmp_path / "out").exists()
