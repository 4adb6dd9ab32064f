"""`hf:NAME` from the Hub, that is, from its stand-in: fetched and streamed, as a user types it."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.dense.shards import read_rows
from tests.captioner.images import write_images
from tests.hub.commands import Commands, Done
from tests.hub.faults import Fault
from tests.hub.server import HubServer

WAYS = pytest.mark.parametrize("way", [[], ["--streaming"]], ids=["fetched", "streamed"])
COUNT = 6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("images")
    return [(folder / name).read_bytes() for name in write_images(folder, COUNT)]


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the libraries have their caches."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def commands(server: HubServer, home: Path) -> Iterator[Commands]:
    """All of this file's commands: one process, one cache."""
    with Commands(server.environment(home), home) as commands:
        yield commands


@pytest.fixture(autouse=True)
def _no_fault_is_left(server: HubServer) -> Iterator[None]:
    yield
    server.faults.clear()


def caption(commands: Commands, name: str, out: Path, *options: str) -> Done:
    engine = ["--engine", "scripted", "--model", "any", "--workers", "1"]
    return commands.run("caption", *engine, "--images", f"hf:{name}", "--out", out, *options)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return read_rows(out).to_pylist()


def hashes(images: list[bytes]) -> list[str]:
    return [hashlib.sha256(content).hexdigest() for content in images]


def make_table(rows: list[dict[str, Any]], **columns: list[Any]) -> bytes:
    """A Parquet file as `push_to_hub` writes it."""
    kinds = {name: datasets.Value("string") for name in columns}
    schema = datasets.Features(image=datasets.Image(), **kinds).arrow_schema
    sink = io.BytesIO()
    # Not by the library's own writer, which would look for what the rows name.
    pq.write_table(pa.table({"image": rows, **columns}, schema=schema), sink)
    return sink.getvalue()


def make_folder(images: list[bytes], *, split: str) -> dict[str, bytes]:
    lines = [f"{number}.png,of {number},i{number}" for number in range(len(images))]
    files = {f"{split}/{number}.png": content for number, content in enumerate(images)}
    return {**files, f"{split}/metadata.csv": "\n".join(["file_name,text,id", *lines]).encode()}


@WAYS
def test_a_table(
    server: HubServer, commands: Commands, tmp_path: Path, images: list[bytes], way: list[str]
) -> None:
    cells = [{"bytes": content, "path": "x.png"} for content in images]
    said = [f"of {number}" for number in range(COUNT)]
    name = f"data/validation-00000-of-00001{'-s' * len(way)}.parquet"
    files = {"data/test.parquet": make_table(cells[:1]), name: make_table(cells, text=said)}
    server.hub.create("me/table", {**files, "README.md": b"# A table\n"})
    done = caption(commands, "me/table", tmp_path / "out", "--split", "validation", *way)
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "out")
    assert [row["image_sha256"] for row in rows] == hashes(images)
    assert [row["captions"] for row in rows] == [[text] for text in said]
    assert [row["file_name"] for row in rows] == [f"validation/{n}" for n in range(COUNT)]
    # The images can be had again, from a stream too.
    packed = tmp_path / "tar"
    done = commands.run("export", tmp_path / "out", "--format", "webdataset", "--out", packed)
    assert done.code == 0, done.err


@WAYS
def test_a_folder_of_images(
    server: HubServer, commands: Commands, tmp_path: Path, images: list[bytes], way: list[str]
) -> None:
    server.hub.create("me/folder", {**make_folder(images, split="test"), "train/0.png": b"x"})
    done = caption(commands, "me/folder", tmp_path / "out", "--split", "test", *way)
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "out")
    assert [row["image_sha256"] for row in rows] == hashes(images)
    assert [row["captions"] for row in rows] == [[f"of {number}"] for number in range(COUNT)]
    assert [row["image_id"] for row in rows] == [f"i{number}" for number in range(COUNT)]
    # By the place in the repository, whichever way they come.
    assert [row["file_name"] for row in rows] == [f"test/{number}.png" for number in range(COUNT)]


@WAYS
def test_a_folder_in_an_archive(
    server: HubServer, commands: Commands, tmp_path: Path, images: list[bytes], way: list[str]
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, content in enumerate(images):
            archive.writestr(f"in/{number}.png", content)
    server.hub.create("me/packed", {"photos.zip": packed.getvalue()})
    done = caption(commands, "me/packed", tmp_path / "out", *way)
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "out")
    assert [row["image_sha256"] for row in rows] == hashes(images)
    assert rows[3]["file_name"] == "photos.zip/in/3.png"


@WAYS
def test_rows_name_nothing_outside_their_repository(
    server: HubServer,
    commands: Commands,
    home: Path,
    tmp_path: Path,
    images: list[bytes],
    way: list[str],
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x.png", images[0])
    server.hub.create("me/hidden", {"x.png": images[0], "x.zip": packed.getvalue()})
    # Fetched before, into the cache that all data sets share.
    cached = home / "hub" / "datasets--me--hidden" / "snapshots" / "main" / "x.png"
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(images[0])
    (tmp_path / "hidden.png").write_bytes(images[0])
    names = [
        "hf://datasets/me/hidden/x.png",
        "hf://datasets/me/hidden@main/x.png",
        "hf://datasets/me/hostile/../hidden/resolve/main/x.png",
        "hf://datasets/me/hostile@main/../../../hidden/resolve/main/x.png",
        "zip://x.png::hf://datasets/me/hidden@main/x.zip",
        f"{server.endpoint}/datasets/me/hidden/resolve/main/x.png",
        f"zip://x.png::{server.endpoint}/datasets/me/hidden/resolve/main/x.zip",
        f"simplecache::{server.endpoint}/datasets/me/hidden/resolve/main/x.png",
        str(tmp_path / "hidden.png"),
        f"file://{tmp_path}/hidden.png",
        f"local://{tmp_path}/hidden.png",
        "../../../datasets--me--hidden/snapshots/main/x.png",
        str(cached),
        f"zip://x.png::{cached}",
        "zip://x.png",
        "",
    ]
    cells = [{"bytes": images[1], "path": None}, *({"bytes": None, "path": n} for n in names)]
    own = {"bytes": None, "path": "hf://datasets/me/hostile@main/own/x.png"}
    files = {"data/train.parquet": make_table([*cells, own]), "own/x.png": images[2]}
    server.hub.create("me/hostile", files)
    server.requests.clear()
    done = caption(commands, "me/hostile", tmp_path / "out", *way)
    assert done.code == 3, done.err
    rows = rows_of(tmp_path / "out")
    assert rows[0]["status"] == rows[-1]["status"] == "ok"
    assert rows[-1]["image_sha256"] == hashes(images)[2]
    assert [row["status"] for row in rows[1:-1]] == ["decode_error"] * len(names)
    assert not [line for line in server.requests if "hidden" in line]


def test_a_stream_is_retried_and_gone_on_with_where_it_began(
    server: HubServer, commands: Commands, tmp_path: Path, images: list[bytes]
) -> None:
    repository = server.hub.create("me/moving", make_folder(images, split="train"))
    # A file that cannot be had for a while, and one more that a second try gets.
    server.faults.add(Fault(r"GET .*train/1\.png", status=403, times=9))
    server.faults.add(Fault(r"GET .*train/2\.png", status=503))
    done = caption(commands, "me/moving", tmp_path / "out", "--streaming")
    assert done.code == 3, done.err
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "decode_error", *["ok"] * (COUNT - 2)]
    assert "403" in rows[1]["error"]
    server.faults.clear()
    # The Hub moves on meanwhile; the run does not.
    later = repository.commit({"train/1.png": images[5], "train/0.png": b"x"})
    server.requests.clear()
    done = caption(commands, "me/moving", tmp_path / "out", "--streaming", "--retry-errors")
    assert done.code == 0, done.err
    assert [row["image_sha256"] for row in rows_of(tmp_path / "out")] == hashes(images)
    assert not [line for line in server.requests if later.sha in line or "main" in line]


def test_an_index_goes_on_with_the_revision_it_began_with(
    server: HubServer, commands: Commands, tmp_path: Path, images: list[bytes]
) -> None:
    from tests.vse.models import write_model
    from tests.vse.world import write_world
    from vse.search.index import Index
    from vse.search.parts import Part, PartFolder

    write_world(tmp_path / "world", train=2, val=1, test=1)
    write_model(tmp_path / "model", tmp_path / "world")
    repository = server.hub.create("me/growing", make_folder(images, split="train"))
    out = tmp_path / "a.parquet"
    words = ("embed", "--model", tmp_path / "model", "--images", "hf:me/growing", "--out", out)
    done = commands.run(*words)
    assert done.code == 0, done.err
    table, info = pq.read_table(out), Index(out).info
    out.unlink()
    PartFolder(out, info).write(Part(0, 2, table.slice(0, 2)))
    repository.commit({"train/0.png": images[5], "train/5.png": images[0]})
    done = commands.run(*words)
    assert done.code == 0 and "resuming  2 of 6" in done.err, done.err
    vectors = pq.read_table(out).column("embedding").to_pylist()
    assert np.allclose(vectors, table.column("embedding").to_pylist(), atol=1e-6)
    # Once it is finished, it is out of date.
    done = commands.run(*words)
    assert done.code == 1 and "another revision" in done.err


def test_what_cannot_be_had_is_one_line(
    server: HubServer, commands: Commands, tmp_path: Path, images: list[bytes]
) -> None:
    server.hub.create("me/few", make_folder(images[:2], split="test"))
    for name, options, message in (
        ("me/none", (), "the data set me/none cannot be loaded"),
        ("me/none", ("--streaming",), "the data set me/none cannot be loaded"),
        ("me/few", ("--split", "val"), "the data set me/few cannot be loaded"),
        ("me/few", ("--split", "test", "--image-column", "x"), "has no column 'x'"),
    ):
        done = caption(commands, name, tmp_path / "out", *options)
        assert done.code == 1 and message in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out").exists()
