"""What the page answers, without the page."""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import vse
from data.errors import UserError
from data.images import ImageError, Status
from pipelines.pages.search.images import IndexedImages
from pipelines.search_app.collection import MOST_LETTERS, Collection
from pipelines.search_app.html import render_answer, render_comparison
from pipelines.search_app.opening import open_collection
from pipelines.search_app.texts import find_shared_names
from tests.pipelines.search_app.made import (
    HOSTILE,
    HOSTILE_FILE,
    embed,
    embed_other_world,
    embed_table,
    write_project,
)
from tests.vse.models import write_model
from tests.waiting import HANG_SECONDS


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("collection"))


def open_project(project: Path, *names: str, **given: Path | None) -> tuple[Collection, list[str]]:
    said: list[str] = []
    options: dict[str, Path | None] = dict.fromkeys(("images", "dense", "captions"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        paths = [Path(name) for name in names]
        options |= given
        return open_collection(paths, model=None, device="cpu", say=said.append, **options), said


@pytest.fixture(scope="module")
def both(project: Path) -> Collection:
    collection, said = open_project(project, "images.parquet", "texts.parquet")
    assert said == [
        "index     images.parquet: 14 images",
        "index     texts.parquet: 42 texts",
        "dense     dense/world",
        "captions  world/dataset_world.json",
    ]
    return collection


def rank(project: Path, index: str, vector: np.ndarray) -> list[tuple[str, float]]:
    """(name, score) of each row, the best first, straight from the file."""
    table = pq.read_table(project / index)
    scores = np.vstack(table.column("embedding").to_numpy()).astype(np.float64) @ vector
    names = table.column("file_name").to_pylist()
    return [(names[row], scores[row]) for row in np.argsort(-scores, kind="stable")]


def test_a_text_and_a_photo_find_the_nearest_of_each_index(both: Collection, project: Path) -> None:
    model = vse.load(project / "runs/stage2", device="cpu")
    photo = (project / "world/test/001.png").read_bytes()
    for query, vector in (
        (both.ask_text("  a red square "), model.encode_text(["a red square"])[0]),
        (both.ask_photo(photo), model.encode_image([photo])[0]),
    ):
        images, texts = both.search(query, top=5)
        assert (images.kind, images.rows, texts.kind, texts.rows) == ("images", 14, "texts", 42)
        for section, name in ((images, "images.parquet"), (texts, "texts.parquet")):
            wanted = rank(project, name, vector)[:5]
            assert [hit.rank for hit in section.hits] == [1, 2, 3, 4, 5]
            scores = [score for _, score in wanted]
            assert [hit.score for hit in section.hits] == pytest.approx(scores, abs=1e-6)
        assert [hit.shown.name for hit in images.hits] == [
            name for name, _ in rank(project, "images.parquet", vector)[:5]
        ]
        assert all(hit.shown.picture is not None for hit in images.hits)
        assert all(hit.shown.text and hit.shown.picture is None for hit in texts.hits)


def test_a_hit_is_compared_with_all_that_was_written_of_its_image(
    both: Collection, project: Path
) -> None:
    model = vse.load(project / "runs/stage2", device="cpu")
    query = both.ask_text("a red square")
    [row] = [
        row for row, name in enumerate(both.indexes[0].read_file_names()) if name == HOSTILE_FILE
    ]
    found = both.compare(query, (0, row))
    assert found.shown.name == HOSTILE_FILE and found.shown.picture is not None
    assert found.dense is not None and found.dense.text == HOSTILE and found.chosen is None
    assert [text.text for text in found.captions][0] == HOSTILE and len(found.captions) == 3
    image = model.encode_image([(project / "world" / HOSTILE_FILE).read_bytes()])
    texts = model.encode_text([text.text for text in found.captions])
    asked = model.encode_text(["a red square"])
    assert found.image_to_query == pytest.approx(float(image[0] @ asked[0]), abs=1e-5)
    to_image = [text.to_image for text in found.captions]
    assert to_image == pytest.approx((texts @ image[0]).tolist(), abs=1e-5)
    to_query = [text.to_query for text in found.captions]
    assert to_query == pytest.approx((texts @ asked[0]).tolist(), abs=1e-5)
    # A text of the other index leads to the same image.
    row = both.indexes[1].read_file_names().index(HOSTILE_FILE)
    by_text = both.compare(query, (1, row))
    assert by_text.chosen is not None and by_text.chosen.text == HOSTILE
    assert by_text.shown.picture == found.shown.picture and by_text.captions == found.captions


def test_a_text_is_compared_the_same_beside_any_others(
    both: Collection, project: Path, tmp_path: Path
) -> None:
    """Converted models read the padding that longer texts bring."""
    model = vse.load(
        write_model(tmp_path / "m", project / "world", decoder={"attend_padding": True})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(both, "embedder", model)
        query = both.ask_text("a red square")
        [row] = [
            row
            for row, name in enumerate(both.indexes[0].read_file_names())
            if name == HOSTILE_FILE
        ]
        found = both.compare(query, (0, row))
    for text in found.captions:
        [alone] = model.encode_text([text.text])
        assert text.to_query == pytest.approx(float(alone @ query.vector), abs=1e-6)


def test_nothing_of_a_caption_or_a_name_is_markup(both: Collection) -> None:
    query = both.ask_text("<i>red</i>")
    sections = both.search(query, top=42)
    page = render_answer(query, sections)
    for section in sections:
        page += "".join(
            render_comparison(both.compare(query, hit.shown.place)) for hit in section.hits
        )
    assert "&lt;script&gt;window.pwned=2&lt;/script&gt;" in page and "&lt;i&gt;red" in page
    assert not any(mark in page for mark in ("<script", "<i>", "<b>&", 'onerror="', "src=x>"))


def test_what_cannot_be_answered_is_said(both: Collection, project: Path) -> None:
    for wrong, complaint in {
        "": "Type a text or drop a photo",
        " \n\t": "Type a text or drop a photo",
        "x" * (MOST_LETTERS + 1): "4,001 characters; the limit is 4,000",
    }.items():
        with pytest.raises(UserError, match=complaint):
            both.ask_text(wrong)
    for content in (b"", b"no image", (project / "world/test/000.png").read_bytes()[:60]):
        with pytest.raises(UserError, match="This photo cannot be read: "):
            both.ask_photo(content)
    query = both.ask_text("red")
    for place in ((0, 14), (0, -1), (2, 0), (-1, 0)):
        with pytest.raises(UserError, match="no longer exists"):
            both.compare(query, place)


def test_texts_are_not_needed_and_a_missing_picture_is_told(project: Path) -> None:
    elsewhere = project / "empty"
    elsewhere.mkdir()
    collection, said = open_project(project, "images.parquet", images=elsewhere)
    assert said[1:] == ["dense     none", "captions  none"]
    query = collection.ask_text("red")
    [section] = collection.search(query, top=2)
    assert [hit.shown.missing for hit in section.hits] == ["the file does not exist"] * 2
    found = collection.compare(query, (0, 0))
    assert (found.dense, found.captions) == (None, ())
    page = render_comparison(found)
    assert "No dense text of this image is known here." in page


@pytest.mark.parametrize("change", [Path.unlink, lambda path: os.truncate(path, 1)])
def test_why_a_picture_is_missing_tells_no_place(
    project: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    archive = tmp_path / "my private photos/x.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as written:
        for path in sorted((project / "world/train").iterdir()):
            written.add(path, path.name)
    index = embed(project, archive, tmp_path / "index.parquet")
    collection, _ = open_project(project, str(index))
    change(archive)
    [section] = collection.search(collection.ask_text("red"), top=2)
    reasons = [hit.shown.missing for hit in section.hits]
    assert all(reason and "/" not in reason and "private" not in reason for reason in reasons)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("/home/me/my photos/x.tar: No such file or directory", "No such file or directory"),
        ("/home/me/x.parquet cannot be read as Parquet", "it cannot be read"),
        ("cannot be fetched: https://me:secret@host.org/a.jpg is gone", "it cannot be read"),
        ("cannot be fetched: HTTP 404", "cannot be fetched: HTTP 404"),
    ],
)
def test_no_reason_of_a_reader_tells_a_place(
    project: Path, reason: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, _ = open_project(project, "images.parquet")

    def fail(self: IndexedImages, address: object) -> bytes:
        raise ImageError(Status.DECODE_ERROR, reason)

    monkeypatch.setattr(IndexedImages, "read", fail)
    [section] = collection.search(collection.ask_text("red"), top=1)
    assert [hit.shown.missing for hit in section.hits] == [told]


def test_a_slow_server_of_pictures_does_not_stop_other_visitors(
    project: Path, tmp_path: Path
) -> None:
    reached, release, slow = threading.Event(), threading.Event(), threading.Event()

    class Photos(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if slow.is_set() and self.path == "/000.png":
                reached.set()
                release.wait(HANG_SECONDS)
            self.send_response(200)
            self.end_headers()
            self.wfile.write((project / "world/train" / self.path[1:]).read_bytes())

        def log_message(self, *given: object) -> None:
            """Nothing."""

    photos = [(project / f"world/train/00{n}.png").read_bytes() for n in range(2)]
    with ThreadingHTTPServer(("127.0.0.1", 0), Photos) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = [f"http://127.0.0.1:{server.server_port}/00{n}.png\n" for n in range(2)]
        (tmp_path / "urls.txt").write_text("".join(urls))
        index = embed(project, tmp_path / "urls.txt", tmp_path / "index.parquet")
        collection, _ = open_project(project, str(index))
        first, second = (collection.ask_photo(photo) for photo in photos)
        slow.set()
        waiting = threading.Thread(target=collection.search, args=(first,), kwargs={"top": 1})
        waiting.start()
        reached.wait(HANG_SECONDS)
        [section] = collection.search(second, top=1)
        assert section.hits[0].shown.picture is not None and collection.ask_text("red")
        assert waiting.is_alive()
        release.set()
        waiting.join(HANG_SECONDS)
        server.shutdown()


def test_pictures_of_texts_are_nowhere(project: Path) -> None:
    with pytest.raises(UserError, match="--images requires an index of images"):
        open_project(project, "texts.parquet", images=project)


def test_an_index_of_another_model_is_refused(project: Path) -> None:
    other = write_model(project / "other", project / "world", seed=5)
    with pytest.raises(UserError, match="was made by another model"):
        open_collection(
            [project / "images.parquet"],
            model=str(other),
            images=None,
            dense=None,
            captions=None,
            device="cpu",
            say=lambda line: None,
        )


def test_a_name_in_two_image_indexes_joins_nothing(project: Path, tmp_path: Path) -> None:
    other = embed_other_world(project, tmp_path)
    names = ("images.parquet", str(other), "texts.parquet")
    collection, said = open_project(project, *names)
    assert len([line for line in said if line.startswith("note") and "3 file names" in line]) == 1
    query = collection.ask_text("red")
    for number in range(3):
        row = collection.indexes[number].read_file_names().index("train/000.png")
        found = collection.compare(query, (number, row))
        assert (found.dense, found.captions) == (None, ())
        assert (found.shown.picture is None) == (found.image_to_query is None) == (number == 2)
        # A name of only one of them leads to its texts and its image.
        if number != 1:
            row = collection.indexes[number].read_file_names().index("train/007.png")
            found = collection.compare(query, (number, row))
            assert found.dense is not None and found.image_to_query is not None


def test_which_names_belong_to_other_images() -> None:
    @dataclass
    class Given:
        source: dict[str, Any]
        kind: str = "images"

    def shared(*sources: dict[str, Any]) -> set[str]:
        indexes: list[Any] = [
            SimpleNamespace(info=Given(source), read_file_names=lambda: ["a.jpg", None])
            for source in sources
        ]
        return find_shared_names(indexes)

    photos = {"kind": "folder", "root": "/photos", "options": {}}
    train, test = (
        {"kind": "dataset", "root": "", "options": {"name": "you/photos", "split": split}}
        for split in ("train", "test")
    )
    assert shared(photos) == shared(photos, photos) == shared(train, train) == set()
    assert shared(photos, {**photos, "root": "/others"}) == shared(train, test) == {"a.jpg"}
    assert shared(photos, {}) == shared({}, {}) == {"a.jpg"}


def test_a_table_that_was_written_again_has_no_pictures(project: Path, tmp_path: Path) -> None:
    index, table = embed_table(project, tmp_path)
    collection, said = open_project(project, str(index))
    query = collection.ask_text("red")
    [section] = collection.search(query, top=2)
    assert all(hit.shown.picture is not None for hit in section.hits)
    pq.write_table(pq.read_table(table).slice(1), table)
    collection, said = open_project(project, str(index))
    assert any(line.startswith("note") and "has changed" in line for line in said)
    [section] = collection.search(query, top=2)
    assert all("has changed" in (hit.shown.missing or "") for hit in section.hits)
