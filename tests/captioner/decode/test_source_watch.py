"""A source that goes in the middle stops the run; images that are missing by themselves do not."""

import contextlib
import io
import shutil
import socket
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.decode.pool import _PROGRAM, FETCHERS
from captioner.decode.source_watch import SourceGoneError, SourceWatch
from captioner.engine.protocol import Generation
from captioner.engine.scripted import ScriptedEngine
from captioner.run.session import CaptionResult, run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption
from data.dense.run import read_run
from data.dense.shards import read_rows
from data.errors import UserError
from data.sources import ImageRecord, Source
from pipelines import cli
from tests.captioner.images import write_images

COUNT = 120
# One try for an address: the waits between four would be the test's.
QUICK = (
    "import sys; sys.path.insert(0, sys.argv[1]); import data.sources.download as d; d._TRIES = 1; "
)


class Saboteur(ScriptedEngine):
    """Does something once it has written so many texts."""

    def __init__(self, after: int, act: Callable[[], object]) -> None:
        super().__init__(window=4)
        self._after, self._act, self._written = after, act, 0

    def collect(self) -> list[Generation]:
        done = super().collect()
        before, self._written = self._written, self._written + len(done)
        if before < self._after <= self._written:
            self._act()
        return done


def run(
    images: Path | str,
    out: Path,
    *,
    after: int = 0,
    act: Callable[[], object] = lambda: None,
    **options: Any,
) -> CaptionResult:
    prepared = prepare_caption(
        CaptionConfig.of(
            model="any",
            engine="scripted",
            images=images,
            out=out,
            shard_size=50,
            workers=2,
            **options,
        )
    )
    choice = replace(prepared.choice, start=lambda _: Saboteur(after, act))
    return run_prepared(replace(prepared, choice=choice))


def empty(folder: Path, away: Path) -> None:
    """As a mount point is when its disk has gone."""
    folder.rename(away)
    folder.mkdir()


def bring_back(folder: Path, away: Path) -> None:
    if folder.exists():
        folder.rmdir()
    away.rename(folder)


def shards_of(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(out.glob("train-*.parquet"))]


@pytest.mark.parametrize(("way", "after"), [("the folder", 30), ("what is in it", COUNT - 12)])
def test_images_that_go_stop_the_run(tmp_path: Path, way: str, after: int) -> None:
    """Not a row is written for them, so that the run ends as if nothing had been."""
    images, away = tmp_path / "i", tmp_path / "away"
    write_images(images, COUNT)
    run(images, tmp_path / "whole")
    go = (lambda: images.rename(away)) if way == "the folder" else (lambda: empty(images, away))
    with pytest.raises(
        UserError, match="the images can no longer be read: .* is missing"
    ) as caught:
        run(images, tmp_path / "out", after=after, act=go)
    assert "\n" not in str(caught.value) and "run the same command again" in str(caught.value)
    assert read_run(tmp_path / "out")["complete"] is False
    bring_back(images, away)
    again = run(images, tmp_path / "out")
    assert again.complete and again.ok == COUNT
    # What was in flight when it went is not done again.
    assert again.generated <= COUNT - after
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "whole")


def test_an_archive_that_goes_stops_the_run(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", COUNT)
    for number, part in enumerate((names[:60], names[60:])):
        with tarfile.open(tmp_path / f"x-{number}.tar", "w") as archive:
            for name in part:
                content = (tmp_path / "i" / name).read_bytes()
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    second, away = tmp_path / "x-1.tar", tmp_path / "away.tar"
    with pytest.raises(UserError, match=r"x-1.tar is missing"):
        run(tmp_path / "x-*.tar", tmp_path / "out", after=10, act=lambda: second.rename(away))
    away.rename(second)
    assert run(tmp_path / "x-*.tar", tmp_path / "out").ok == COUNT


def test_a_stream_that_breaks_off_stops_the_run(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 230, side=8)
    contents = [(tmp_path / "i" / name).read_bytes() for name in names]
    (tmp_path / "set").mkdir()
    # More in the first file than is read ahead.
    for number, part in enumerate((contents[:200], contents[200:])):
        table = pa.table({"image": [{"bytes": content, "path": None} for content in part]})
        pq.write_table(table, tmp_path / "set" / f"{number}.parquet")
    second, away = tmp_path / "set" / "1.parquet", tmp_path / "away"
    arguments: dict[str, Any] = {"images": f"hf:{tmp_path}/set", "streaming": True}
    with pytest.raises(UserError, match="can no longer be read: .* Finished texts are saved"):
        run(out=tmp_path / "out", after=10, act=lambda: second.rename(away), **arguments)
    away.rename(second)
    again = run(out=tmp_path / "out", **arguments)
    assert again.ok == 230 and again.generated <= 40


def test_broken_and_missing_images_are_rows_however_many(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", COUNT, side=8)
    for name in names[5:105]:
        (tmp_path / "i" / name).write_bytes(b"text")
    assert run(tmp_path / "i", tmp_path / "broken").statuses == {"decode_error": 100, "ok": 20}
    # A list whose images were never all there.
    for name in names[5:105]:
        (tmp_path / "i" / name).unlink()
    (tmp_path / "i" / "list.txt").write_text("".join(f"{name}\n" for name in names))
    result = run(tmp_path / "i" / "list.txt", tmp_path / "missing")
    assert result.complete and result.statuses == {"decode_error": 100, "ok": 20}
    rows = read_rows(tmp_path / "missing", ["file_name", "error"]).to_pylist()
    assert [row["file_name"] for row in rows] == names
    assert {row["error"] for row in rows} == {None, "the file does not exist"}


def test_a_command_that_lost_its_images_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "i", COUNT)
    monkeypatch.chdir(tmp_path)
    collect = ScriptedEngine.collect

    def lose(engine: ScriptedEngine) -> list[Generation]:
        if Path("i").exists():
            shutil.rmtree("i")
        return collect(engine)

    monkeypatch.setattr(ScriptedEngine, "collect", lose)
    line = ["caption", "--engine", "scripted", "--model", "any", "--images", "i"]
    assert cli.run(line) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("d2s: error: the images can no longer be read: ")
    assert [text for text in told if "error" in text] == told[-1:]


@pytest.mark.parametrize("count", [3, 40])
def test_a_source_that_is_dead_from_the_start_makes_no_run(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # Nobody listens there any more.
    addresses = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(count)]
    Path("list.txt").write_text("\n".join(addresses))
    monkeypatch.setattr("captioner.decode.pool._PROGRAM", QUICK + _PROGRAM)
    line = ["caption", "--engine", "scripted", "--model", "any", "--images", "list.txt"]
    assert cli.run(line) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"none of the {count} images" in told and "refused" in told
    assert not list(Path("dense").rglob("*.parquet")) and not list(Path("dense").rglob("run.json"))
    # The list may be put right: it is a new run.
    names = write_images(tmp_path / "i", 2)
    Path("list.txt").write_text("\n".join(f"i/{name}" for name in names))
    assert cli.run(line) == 0


def test_errors_alone_may_be_tried_again_in_vain(tmp_path: Path) -> None:
    """The run has texts, so that the source was never dead."""
    names = write_images(tmp_path / "i", 6, side=8)
    (tmp_path / "i" / "list.txt").write_text("\n".join([*names, "none.png"]))
    images, out = tmp_path / "i" / "list.txt", tmp_path / "out"
    assert run(images, out).statuses == {"decode_error": 1, "ok": 6}
    assert run(images, out, retry_errors=True).statuses == {"decode_error": 1, "ok": 6}


LOGIN = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@contextlib.contextmanager
def serve(contents: dict[str, bytes]) -> Iterator[str]:
    """Answers with these contents by their names, and 200, as long as they are there."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = contents[self.path.removeprefix("/")]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def list_addresses(path: Path, server: str, names: Iterable[str]) -> Path:
    path.write_text("".join(f"{server}/{name}\n" for name in names))
    return path


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("kind", ["addresses", "folder", "too large"])
def test_a_source_without_one_image_makes_no_run(tmp_path: Path, kind: str, count: int) -> None:
    names = write_images(tmp_path / "i", count, side=8)
    options: dict[str, Any] = {"max_image_pixels": 9} if kind == "too large" else {}
    if kind != "too large":
        for name in names:
            (tmp_path / "i" / name).write_bytes(LOGIN)
    with serve(dict.fromkeys(names, LOGIN)) as server:
        images = tmp_path / "i"
        if kind == "addresses":
            images = list_addresses(tmp_path / "list.txt", server, names)
        with pytest.raises(UserError, match=f"none of the {count} images"):
            run(images, tmp_path / "out", **options)
    assert not [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]


def test_a_server_that_asks_to_log_in_midway_stops_the_run(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", COUNT, side=8)
    whole = {name: (tmp_path / "i" / name).read_bytes() for name in names}
    contents = dict(whole)
    with serve(contents) as server:
        images = list_addresses(tmp_path / "list.txt", server, names)
        lock = lambda: contents.update(dict.fromkeys(names, LOGIN))  # noqa: E731
        with pytest.raises(UserError, match=r"can no longer be read: .*HTML"):
            run(images, tmp_path / "out", after=20, act=lock)
        # Taken up again it has texts, and still nothing can be read.
        before = read_run(tmp_path / "out")
        with pytest.raises(UserError, match="can no longer be read"):
            run(images, tmp_path / "out")
        after = read_run(tmp_path / "out")
        assert (before["statuses"], after["complete"]) == (after["statuses"], False)
        contents.update(whole)
        assert run(images, tmp_path / "out").statuses == {"ok": COUNT}


def test_what_is_added_is_dead_where_the_old_images_are_gone_too(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 30, side=8)
    contents = {name: (tmp_path / "i" / name).read_bytes() for name in names}
    with serve(contents) as server:
        images = list_addresses(tmp_path / "list.txt", server, names[:6])
        assert run(images, tmp_path / "out").ok == 6
        list_addresses(images, server, names)
        for name in names[6:]:
            contents[name] = LOGIN
        # The old ones can be read: it is these that are broken.
        result = run(images, tmp_path / "one", append=True)
        assert result.statuses == {"decode_error": 24, "ok": 6}
        contents.update(dict.fromkeys(names, LOGIN))
        with pytest.raises(UserError, match="can no longer be read"):
            run(images, tmp_path / "out", append=True)
        assert read_run(tmp_path / "out")["counts"]["errors"] == 0


def record(name: str) -> ImageRecord:
    return ImageRecord(name, name)


def test_what_was_read_before_decides(tmp_path: Path) -> None:
    asked: list[bytes] = []
    readable = True

    def can_read(address: bytes) -> bool:
        asked.append(address)
        return readable

    earlier: list[ImageRecord] = []
    watch = SourceWatch[int](Source("urls"), can_read=can_read, find_read=lambda: earlier)
    # Nothing was ever read: what follows will tell.
    assert not any(watch.note_failure(number, "no") for number in range(20))
    # By now something was, in an earlier session.
    earlier.append(record("z"))
    resolved = [watch.note_failure(number, "no") for number in range(20)]
    assert [len(part) for part in resolved if part] == [32]
    assert asked == [b"path:z"]
    asked.clear()
    for name in "abcd":
        watch.note_read(record(name))
    resolved = [watch.note_failure(number, "no") for number in range(40)]
    assert [len(part) for part in resolved if part] == [24, 16]
    assert asked == [b"path:d", b"path:d"]
    readable = False
    with pytest.raises(SourceGoneError, match=r"d, which was read before, is missing.* \(no\)"):
        for number in range(40):
            watch.note_failure(number, "no")
    assert asked[2:] == [b"path:d", b"path:c", b"path:b"]


def test_a_failure_beside_successes_waits_a_while(tmp_path: Path) -> None:
    """One that a second decoder met just before the end is the source's, too."""
    watch = SourceWatch[str](Source("urls"), can_read=lambda _: False, find_read=list)
    watch.note_read(record("a"))
    assert watch.note_failure("early", "no") == []
    assert watch.note_read(record("b")) == []
    with pytest.raises(SourceGoneError):
        watch.resolve()
    watch = SourceWatch[str](Source("urls"), can_read=lambda _: True, find_read=list)
    watch.note_failure("early", "no")
    resolved = [failure for _ in range(FETCHERS + 40) for failure in watch.note_read(record("b"))]
    assert resolved == ["early"]
