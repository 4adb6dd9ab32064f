"""A source that goes in the middle stops the run; images that are missing by themselves do not."""

import io
import shutil
import socket
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.decode.pool import _PROGRAM
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
    with pytest.raises(UserError, match="the images cannot be read any more: .* is gone") as caught:
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
    with pytest.raises(UserError, match=r"x-1.tar is gone"):
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
    with pytest.raises(UserError, match="cannot be read any more: .* What is done is saved"):
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
    assert {row["error"] for row in rows} == {None, "the file is not there"}


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
    assert told[-1].startswith("d2s: error: the images cannot be read any more: ")
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


def record(name: str) -> ImageRecord:
    return ImageRecord(name, name)


def test_what_was_read_before_decides(tmp_path: Path) -> None:
    asked: list[bytes] = []
    readable = True

    def can_read(address: bytes) -> bool:
        asked.append(address)
        return readable

    watch = SourceWatch[int](Source("urls"), can_read=can_read)
    # Nothing was ever read, so there is nothing to compare with.
    resolved = [watch.note_missing(number, "no") for number in range(20)]
    assert [len(part) for part in resolved if part] == [16]
    assert asked == []
    for name in "abcd":
        watch.note_reached(record(name))
    resolved = [watch.note_missing(number, "no") for number in range(40)]
    assert [len(part) for part in resolved if part] == [20, 16]
    assert asked == [b"path:d", b"path:d"]
    readable = False
    with pytest.raises(SourceGoneError, match=r"d, which was read before, is gone.* \(no\)"):
        for number in range(40):
            watch.note_missing(number, "no")
    assert asked[2:] == [b"path:d", b"path:c", b"path:b"]


def test_a_failure_beside_successes_waits_a_while(tmp_path: Path) -> None:
    """One that a second decoder met just before the end is the source's, too."""
    watch = SourceWatch[str](Source("urls"), can_read=lambda _: False)
    watch.note_reached(record("a"))
    assert watch.note_missing("early", "no") == []
    assert watch.note_reached(record("b")) == []
    with pytest.raises(SourceGoneError):
        watch.resolve()
    watch = SourceWatch[str](Source("urls"), can_read=lambda _: True)
    watch.note_missing("early", "no")
    resolved = [failure for _ in range(40) for failure in watch.note_reached(record("b"))]
    assert resolved == ["early"]
