"""A whole run with the scripted engine: order, resume, refusals, full disk, stops."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import captioner
from captioner.engine.protocol import Engine, Generation, Request
from captioner.engine.scripted import ScriptedEngine
from captioner.run.events import RunEvents
from captioner.run.session import CaptionResult, caption, run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption
from captioner.store.journal import Journal, read_journal
from captioner.store.locks import hold_folder
from data.dense.run import read_run
from data.dense.schema import CAPTION_SCHEMA
from data.dense.shards import read_rows
from data.errors import UserError
from tests.captioner.images import write_images

ROOT = Path(__file__).resolve().parents[3]


def run_scripted(images: Path, out: Path, **options: Any) -> CaptionResult:
    return caption(
        **{"model": "any", "engine": "scripted", "images": images, "out": out, **options}
    )


def run_with(
    engine: Engine,
    images: Path,
    out: Path,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> CaptionResult:
    prepared = prepare_caption(
        CaptionConfig.of(
            model="any", engine="scripted", images=images, out=out, shard_size=10, **options
        )
    )
    choice = replace(prepared.choice, start=lambda _: engine)
    return run_prepared(replace(prepared, choice=choice), stop=stop)


def shard_bytes(folder: Path) -> dict[str, bytes]:
    """All that is published; run.json tells of the clock and is left out."""
    names = [*folder.glob("*.parquet"), folder / "receipts.jsonl"]
    return {path.name: path.read_bytes() for path in names}


def test_one_row_per_image_in_plan_order(tmp_path: Path) -> None:
    names = write_images(tmp_path / "b", 13, prefix="z/") + write_images(tmp_path / "b", 12)
    result = run_scripted(tmp_path / "b", tmp_path / "out", shard_size=10)
    assert (result.rows, result.ok, result.errors, result.generated) == (25, 25, 0, 25)
    assert result.complete and not result.interrupted
    shards = sorted(path.name for path in (tmp_path / "out").glob("train-*"))
    assert shards == [f"train-{index:05d}-of-00003.parquet" for index in range(3)]
    table = read_rows(tmp_path / "out")
    assert table.column("file_name").to_pylist() == sorted(names)
    assert [pq.read_metadata(tmp_path / "out" / name).num_rows for name in shards] == [10, 10, 5]
    for name in shards:
        assert pq.read_schema(tmp_path / "out" / name).equals(CAPTION_SCHEMA)


def test_what_a_row_says(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 1, side=20)
    run_scripted(tmp_path / "i", tmp_path / "out", seed=7)
    (row,) = read_rows(tmp_path / "out").to_pylist()
    assert (row["width"], row["height"], row["status"]) == (28, 20, "ok")
    assert row["engine"] == "scripted" and row["caption"].startswith("Scripted text")
    assert row["caption_words"] == len(row["caption"].replace(".", "").split())
    assert row["flags"] == [] and row["repetition"] < 1
    assert row["run_id"] == read_run(tmp_path / "out")["run_id"]
    assert row["captions"] is None and row["error"] is None
    assert len(row["image_sha256"]) == 64


def test_what_the_record_and_the_metadata_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("photos"), 3)
    run_scripted(Path("photos"), None, prompt="What is it?", temperature=0.0)  # type: ignore[arg-type]
    run = read_run(Path("dense/photos"))
    assert run["images"] == str(tmp_path / "photos") and run["images_relative"] == "photos"
    assert run["counts"] == {"rows": 3, "ok": 3, "errors": 0} and run["complete"] is True
    assert (run["model"], run["prompt"]) == ("any", "What is it?")
    metadata = pq.read_schema("dense/photos/train-00000-of-00001.parquet").metadata
    about = json.loads(metadata[b"d2s.run"])
    assert about["prompt"] == "What is it?" and about["sampling"]["temperature"] == 0.0
    assert about["preprocessing"]["aspect"] == "pad" and "pillow" in about["versions"]
    assert metadata[b"d2s.engine"] == b"scripted"
    assert metadata[b"d2s.run_id"].decode() == run["fingerprint"][:16]


def test_images_elsewhere_have_no_relative_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "photos", 1)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run_scripted(tmp_path / "photos", Path("out"))
    assert read_run(Path("out"))["images_relative"] is None


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 30)
    for name, workers in (("one", 1), ("two", 3)):
        run_scripted(tmp_path / "i", tmp_path / name, shard_size=7, workers=workers)
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")


def test_again_does_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 5)
    run_scripted(tmp_path / "i", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = run_scripted(tmp_path / "i", tmp_path / "out")
    assert again.complete and again.generated == 0 and again.ok == 5
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert {p: t for p, t in before.items() if p.name != ".lock"} == {
        p: t for p, t in after.items() if p.name != ".lock"
    }


def test_only_the_first_images(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 9)
    result = run_scripted(tmp_path / "i", tmp_path / "out", limit=4)
    assert result.rows == 4
    assert read_rows(tmp_path / "out").column("file_name").to_pylist() == names[:4]
    with pytest.raises(UserError, match="limit: 4 -> None"):
        run_scripted(tmp_path / "i", tmp_path / "out")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"prompt": "Else?"}, r"prompt: Describe this image in detail\. -> Else\?"),
        ({"temperature": 0.0}, r"sampling\.temperature: 0\.2 -> 0\.0"),
        ({"seed": 1}, r"sampling\.seed"),
        ({"model": "other"}, "model: any -> other"),
        ({"aspect": "crop"}, r"preprocessing\.aspect: pad -> crop"),
        ({"shard_size": 3}, "shard_size: 10000 -> 3"),
        ({"max_tokens": 9}, r"sampling\.max_tokens"),
    ],
)
def test_the_output_of_another_run_is_refused(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    write_images(tmp_path / "i", 2)
    run_scripted(tmp_path / "i", tmp_path / "out")
    before = shard_bytes(tmp_path / "out")
    with pytest.raises(UserError, match=rf"run with other settings \({told}") as caught:
        run_scripted(tmp_path / "i", tmp_path / "out", **changed)
    assert "use another --out" in str(caught.value)
    assert shard_bytes(tmp_path / "out") == before


def test_other_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 2)
    write_images(tmp_path / "j", 2)
    run_scripted(tmp_path / "i", tmp_path / "out")
    with pytest.raises(UserError, match=r"images is .*/i there and .*/j here"):
        run_scripted(tmp_path / "j", tmp_path / "out")


def test_a_project_that_was_moved_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "project" / "i", 12)
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(UserError, match="vLLM failed"):
        run_with(FailingEngine(die_after=9), Path("i"), Path("out"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").rename("moved")
    (tmp_path / "moved" / "i" / "0003.png").rename("aside")
    with pytest.raises(
        UserError, match="images is .*project/i there and .*moved/i here .1 of its images are"
    ):
        run_with(ScriptedEngine(), Path("moved/i"), Path("moved/out"))
    Path("aside").rename(tmp_path / "moved" / "i" / "0003.png")
    monkeypatch.chdir(tmp_path / "moved")
    (tmp_path / "project" / "i").mkdir(parents=True)
    with pytest.raises(UserError, match="images is .*project/i there and .*moved/i here"):
        run_with(ScriptedEngine(), Path("i"), Path("out"))
    shutil.rmtree(tmp_path / "project")
    assert run_with(ScriptedEngine(), Path("i"), Path("out")).complete
    assert read_run(Path("out"))["images"] == str(tmp_path / "moved" / "i")


def test_folders_that_cannot_be_the_output(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 2)
    with pytest.raises(UserError, match="image folder .* itself"):
        run_scripted(tmp_path / "i", tmp_path / "i")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run_scripted(tmp_path / "i", tmp_path / "file")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "train-00000-of-00001.parquet").write_text("")
    with pytest.raises(UserError, match="other Parquet files"):
        run_scripted(tmp_path / "i", tmp_path / "foreign")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="not belong to a captioning run"):
        run_scripted(tmp_path / "i", tmp_path / "strange")


def test_an_output_among_the_images_is_not_captioned(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 2)
    (tmp_path / "i" / "out").mkdir()
    shutil.copy(tmp_path / "i" / "0000.png", tmp_path / "i" / "out" / "sheet.png")
    assert run_scripted(tmp_path / "i", tmp_path / "i" / "out").rows == 2


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 2)
    (tmp_path / "out").mkdir()
    with (
        hold_folder(tmp_path / "out") as holds,
        pytest.raises(UserError, match="another process is writing"),
    ):
        assert holds
        run_scripted(tmp_path / "i", tmp_path / "out")
    assert run_scripted(tmp_path / "i", tmp_path / "out").complete


def test_images_that_came_later_are_told(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 2)
    run_scripted(tmp_path / "i", tmp_path / "out")
    write_images(tmp_path / "i", 5)
    result = run_scripted(tmp_path / "i", tmp_path / "out")
    assert (result.rows, result.new_images) == (2, 3)


def test_an_image_that_vanishes_is_a_row(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 30)
    prepared = prepare_caption(
        CaptionConfig.of(
            model="any", engine="scripted", images=tmp_path / "i", out=tmp_path / "out"
        )
    )
    (tmp_path / "i" / names[20]).unlink()
    result = run_prepared(prepared)
    assert result.statuses == {"decode_error": 1, "ok": 29}
    rows = read_rows(tmp_path / "out").to_pylist()
    assert [row["file_name"] for row in rows] == names
    assert (rows[20]["status"], rows[20]["error"]) == ("decode_error", "the file does not exist")
    assert rows[20]["caption"] is None and rows[21]["status"] == "ok"


def test_retry_errors_runs_the_failed_ones_only(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 30)
    good = (tmp_path / "i" / names[13]).read_bytes()
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    (tmp_path / "i" / names[13]).write_bytes(b"torn")
    (tmp_path / "i" / names[5]).write_bytes(b"torn")
    assert run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10).errors == 2
    (tmp_path / "i" / names[13]).write_bytes(good)
    # Without the option a row stays what it is.
    assert run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10).generated == 0
    retried = run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10, retry_errors=True)
    assert (retried.generated, retried.ok, retried.errors) == (2, 29, 1)
    second = "train-00001-of-00003.parquet"
    assert shard_bytes(tmp_path / "out")[second] == shard_bytes(tmp_path / "whole")[second]
    assert read_rows(tmp_path / "out").num_rows == 30


def stop_with_an_error(folder: Path) -> int:
    """Interrupt a run of folder/i in its only shard, after an error row; how many are done.

    The run is in folder/out, and one without a stop or errors in folder/whole.
    """
    write_images(folder / "i", 30)
    run_scripted(folder / "i", folder / "whole")
    prepared = prepare_caption(
        CaptionConfig.of(model="any", engine="scripted", images=folder / "i", out=folder / "out")
    )
    faults = {prepared.plan.records[3].sample_id: "fail"}
    engine = ScriptedEngine(window=2, faults=faults)
    journal = folder / "out" / "journal" / "00000.jsonl"
    stopped = run_prepared(
        replace(prepared, choice=replace(prepared.choice, start=lambda _: engine)),
        stop=lambda: len(read_journal(journal)) > 9,
    )
    assert stopped.interrupted and 9 < stopped.done < 30
    assert [one.status for one in read_journal(journal).values()].count("engine_error") == 1
    return stopped.done


def test_retry_errors_includes_those_of_an_unfinished_shard(tmp_path: Path) -> None:
    done = stop_with_an_error(tmp_path)
    retried = run_scripted(tmp_path / "i", tmp_path / "out", retry_errors=True)
    assert (retried.generated, retried.ok, retried.errors) == (30 - done + 1, 30, 0)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


@pytest.mark.parametrize("failed_in", ["00000.jsonl", "00000.early.jsonl"])
def test_a_text_of_one_owner_counts_more_than_the_error_of_another(
    tmp_path: Path, failed_in: str
) -> None:
    stop_with_an_error(tmp_path)
    journals = tmp_path / "out/journal"
    (journals / "00000.jsonl").rename(journals / failed_in)
    (failed,) = (one for one in read_journal(journals / failed_in).values() if not one.ok)
    # One that retried it, in a session that shared the folder.
    journal = Journal(journals / "00000.other.jsonl")
    journal.append(replace(failed, status="ok", error=None, caption="A text."))
    journal.close()
    result = run_scripted(tmp_path / "i", tmp_path / "out")
    assert (result.ok, result.errors) == (30, 0)
    assert read_rows(tmp_path / "out").column("caption")[3].as_py() == "A text."


def test_a_damaged_shard_is_named_and_written_anew(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 20)
    run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10)
    whole = shard_bytes(tmp_path / "out")
    shard = tmp_path / "out" / "train-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(UserError, match="train-00001-of-00002.*delete it and run"):
        run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10)
    shard.unlink()
    assert run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10).generated == 10
    assert shard_bytes(tmp_path / "out") == whole


def test_a_lost_receipt_is_made_anew(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 20)
    run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10)
    whole = shard_bytes(tmp_path / "out")
    (tmp_path / "out" / "receipts.jsonl").unlink()
    assert run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10).generated == 0
    assert shard_bytes(tmp_path / "out") == whole


def test_a_full_disk_while_a_shard_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "i", 25)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    replace_file, renamed = os.replace, []

    def fill(source: Path, target: Path) -> None:
        if "00001-of" in str(target) and not renamed:
            renamed.append(target)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(source, target)

    monkeypatch.setattr("data.files.atomic.os.replace", fill)
    with pytest.raises(UserError, match="disk is full.*train-00001-of-00003") as caught:
        run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.endswith(".tmp")]
    assert not (tmp_path / "out" / "train-00001-of-00003.parquet").exists()
    assert (tmp_path / "out" / "journal" / "00001.jsonl").exists()
    again = run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10)
    # The ten texts of the shard that could not be written are in its journal.
    assert again.complete and again.generated <= 5
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


@pytest.mark.parametrize("kib", [28, 36, 48])
def test_a_disk_that_is_truly_full(tmp_path: Path, kib: int) -> None:
    write_images(tmp_path / "i", 120, side=8)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=40)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        with pytest.raises(UserError, match="the disk is full"):
            run_scripted(tmp_path / "i", disk / "out", shard_size=40)
        assert not [path for path in (disk / "out").iterdir() if path.name.endswith(".tmp")]
        grow = ["mount", "-o", "remount,size=4m", str(disk)]
        subprocess.run(grow, check=True)
        assert run_scripted(tmp_path / "i", disk / "out", shard_size=40).complete
        assert shard_bytes(disk / "out") == shard_bytes(tmp_path / "whole")
    finally:
        # Lazily: whatever else looks at file systems may hold this one for a moment.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_stop_saves_what_is_in_flight(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 60)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=25)
    done: list[int] = []
    result = run_scripted(
        tmp_path / "i",
        tmp_path / "out",
        shard_size=25,
        stop=lambda: len(done) > 8,
        on_progress=lambda progress: done.append(progress.done),
    )
    assert result.interrupted and not result.complete
    assert 8 <= result.done < 60
    assert read_run(tmp_path / "out")["complete"] is False
    again = run_scripted(tmp_path / "i", tmp_path / "out", shard_size=25)
    assert again.complete and again.generated == 60 - result.done
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


class FailingEngine(ScriptedEngine):
    """Fails on some images, or dies after some."""

    def __init__(self, *, fail: set[int] = frozenset(), die_after: int = 10**9) -> None:  # type: ignore[assignment]
        super().__init__()
        self._fail, self._die_after, self._seen = fail, die_after, 0
        self.delivered = 0

    def collect(self) -> list[Generation]:
        done = []
        for generation in super().collect():
            if self._seen in self._fail:
                generation = Generation(generation.key, error="not accepted: ValueError: odd")
            self._seen += 1
            done.append(generation)
        if self._seen > self._die_after:
            raise UserError("the engine vLLM failed")
        self.delivered += len(done)
        return done


def test_an_image_that_the_engine_refuses_is_a_row(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 30)
    result = run_with(FailingEngine(fail={0, 1, 17}), tmp_path / "i", tmp_path / "out")
    assert result.statuses == {"engine_error": 3, "ok": 27} and result.complete
    rows = read_rows(tmp_path / "out").to_pylist()
    assert [row["error"] for row in rows if row["status"] != "ok"] == [
        "not accepted: ValueError: odd"
    ] * 3
    assert all(row["caption"] is None and row["width"] for row in rows if row["status"] != "ok")


def test_an_engine_that_fails_every_image_is_stopped(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 50)
    with pytest.raises(UserError, match="failed on each of the first 16 images.*odd"):
        run_with(FailingEngine(fail=set(range(50))), tmp_path / "i", tmp_path / "out")
    # Nothing of it is kept: with the engine mended the run is whole.
    assert run_with(ScriptedEngine(), tmp_path / "i", tmp_path / "out").ok == 50


def test_an_engine_that_dies_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 50)
    mortal = FailingEngine(die_after=23)
    with pytest.raises(UserError, match="vLLM failed"):
        run_with(mortal, tmp_path / "i", tmp_path / "out")
    assert mortal.delivered >= 20
    again = run_with(ScriptedEngine(), tmp_path / "i", tmp_path / "out")
    assert again.complete and again.generated == 50 - mortal.delivered


class InterruptedEngine(ScriptedEngine):
    """Hears the signal that stops the run, as an engine in a process of our group does."""

    def __init__(self, reaction: str) -> None:
        super().__init__()
        self.reaction, self.stopped, self.delivered = reaction, False, 0

    def collect(self) -> list[Generation]:
        if self.delivered < 12:
            done = super().collect()
            self.delivered += len(done)
            return done
        self.stopped = self.reaction != "aborts unasked"
        if self.reaction == "dies":
            raise UserError("the engine vLLM failed")
        given_up = [
            Generation(request.key, error="given up", aborted="aborts" in self.reaction)
            for request in self._queue
        ]
        self._queue.clear()
        return given_up


@pytest.mark.parametrize("reaction", ["aborts", "aborts unasked", "fails", "dies"])
def test_an_engine_that_hears_the_signal_makes_no_error_rows(tmp_path: Path, reaction: str) -> None:
    write_images(tmp_path / "i", 50)
    run_with(ScriptedEngine(), tmp_path / "i", tmp_path / "whole")
    engine = InterruptedEngine(reaction)
    result = run_with(engine, tmp_path / "i", tmp_path / "out", stop=lambda: engine.stopped)
    assert result.interrupted and 12 <= result.generated == engine.delivered < 50
    again = run_with(ScriptedEngine(), tmp_path / "i", tmp_path / "out")
    assert again.ok == 50 and again.generated == 50 - engine.delivered
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


class CountingEngine(ScriptedEngine):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(window=6)
        self.asked: list[Request] = []
        self.most = 0

    def submit(self, request: Request) -> None:
        self.asked.append(request)
        super().submit(request)
        self.most = max(self.most, self.pending)


def test_the_window_is_bounded_and_seeds_are_each_images_own(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 40)
    engine = CountingEngine()
    run_with(engine, tmp_path / "i", tmp_path / "out", seed=3)
    assert engine.most <= 6
    assert len({request.seed for request in engine.asked}) == 40
    rows = read_rows(tmp_path / "out").to_pylist()
    assert {row["sample_id"]: row["seed"] for row in rows} == {
        request.key: request.seed for request in engine.asked
    }


def test_no_engine_is_started_where_there_is_nothing_to_caption(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 12)
    with pytest.raises(UserError):
        run_with(FailingEngine(die_after=11), tmp_path / "i", tmp_path / "out")
    run_with(ScriptedEngine(), tmp_path / "i", tmp_path / "out")

    prepared = prepare_caption(
        CaptionConfig.of(
            model="any",
            engine="scripted",
            images=tmp_path / "i",
            out=tmp_path / "out",
            shard_size=10,
        )
    )

    def refuse(_: object) -> Engine:
        raise AssertionError("an engine was started")

    (tmp_path / "out" / "receipts.jsonl").unlink()
    choice = replace(prepared.choice, start=refuse)
    assert run_prepared(replace(prepared, choice=choice)).complete


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """kill -9 again and again: no row is lost, none is made twice, the bytes are the same."""
    write_images(tmp_path / "i", 120)
    (tmp_path / "i" / "0050.png").write_bytes(b"text")
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=16)
    command = [sys.executable, "-m", "tests.captioner.scripted_run", str(tmp_path / "i")]
    command += [str(tmp_path / "out"), "16"]
    moments, saved = random.Random(0), 0
    for _ in range(4):
        process = subprocess.Popen(
            [*command, "0.02", "25"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        counts = [int(process.stdout.readline()) for _ in range(moments.randint(1, 18))]
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.wait()
        # What was saved before is where this one begins; it counts on from there, one by one.
        assert counts[0] >= saved
        assert counts == list(range(counts[0], counts[0] + len(counts)))
        saved = counts[-1]
        process.stdout.close()
    assert saved < 120
    subprocess.run([*command, "0"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert not (tmp_path / "out" / "journal").exists()


def test_two_thousand_rows_of_which_some_are_broken(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 2000, side=8)
    for name in names[::100]:
        (tmp_path / "i" / name).write_bytes(b"")
    result = run_scripted(tmp_path / "i", tmp_path / "out", shard_size=300)
    assert result.statuses == {"decode_error": 20, "ok": 1980}
    table = read_rows(tmp_path / "out", columns=["file_name", "error"])
    assert table.column("file_name").to_pylist() == names
    errors = table.column("error").to_pylist()
    assert [index for index, error in enumerate(errors) if error] == list(range(0, 2000, 100))
    assert set(errors[::100]) == {"the file is empty"}


def test_the_package_offers_the_same_function() -> None:
    assert captioner.caption is caption


def test_a_kill_while_errors_are_retried_leaves_an_unfinished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last shard and before its flags: the next run must finish, not take it as done."""
    write_images(tmp_path / "i", 30)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    content = (tmp_path / "i" / "0005.png").read_bytes()
    (tmp_path / "i" / "0005.png").write_bytes(b"")
    assert run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10).errors == 1
    (tmp_path / "i" / "0005.png").write_bytes(content)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # As a kill: nothing more is written.
        patch.setattr("captioner.store.duplicate_flags.flag_duplicates", die)
        with pytest.raises(KeyboardInterrupt):
            run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10, retry_errors=True)
    assert read_run(tmp_path / "out")["complete"] is False
    again = run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10)
    assert again.complete and again.errors == 0
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_a_model_that_answers_nothing_is_told_of(tmp_path: Path) -> None:
    """Whatever it only reasoned is no answer; nothing of it is kept as if it were one."""
    names = write_images(tmp_path / "i", 40)
    prepared = prepare_caption(
        CaptionConfig.of(model="m", engine="scripted", images=tmp_path / "i", out=tmp_path / "out")
    )
    keys = [record.sample_id for record in prepared.plan.records]
    silent = ScriptedEngine(faults=dict.fromkeys(keys, "silence"))
    with pytest.raises(UserError, match="first 16 images.*the answer is empty"):
        run_with(silent, tmp_path / "i", tmp_path / "out")
    # With a text among them, empty ones are rows with their flag.
    some = ScriptedEngine(faults=dict.fromkeys(keys[:5], "silence"))
    result = run_with(some, tmp_path / "i", tmp_path / "out")
    assert (result.ok, result.flags["empty"]) == (len(names), 5)
    few = ScriptedEngine(faults=dict.fromkeys(keys, "silence"))
    result = run_with(few, tmp_path / "i", tmp_path / "few", limit=3)
    assert result.complete and result.flags["empty"] == 3


class CountingAnswers(ScriptedEngine):
    """Knows how many answers it gave."""

    answers = 0

    def collect(self) -> list[Generation]:
        done = super().collect()
        self.answers += len(done)
        return done


@pytest.mark.parametrize("fault", ["silence", "fail"])
def test_a_stretch_without_texts_ends_no_run_that_has_some(tmp_path: Path, fault: str) -> None:
    """Killed in it, the run ends as one that was not: the engine is shown what it has a text of."""
    write_images(tmp_path / "i", 70)
    config = {"model": "m", "engine": "scripted", "images": tmp_path / "i", "out": tmp_path / "o"}
    records = prepare_caption(CaptionConfig.of(**config)).plan.records
    faults = {record.sample_id: fault for record in records[15:60]}
    whole = run_with(ScriptedEngine(faults=faults), tmp_path / "i", tmp_path / "whole")
    # Stopped where nothing but failures comes for a while.
    engine = CountingAnswers(faults=faults, window=4)
    stopped = run_with(engine, tmp_path / "i", tmp_path / "o", stop=lambda: engine.answers >= 30)
    assert stopped.interrupted and 15 < stopped.done < 44
    again = run_with(ScriptedEngine(faults=faults), tmp_path / "i", tmp_path / "o")
    assert again.complete and again.statuses == whole.statuses
    assert shard_bytes(tmp_path / "o") == shard_bytes(tmp_path / "whole")
    if fault == "fail":
        # Those that still fail are told of, and stay.
        retried = run_with(
            ScriptedEngine(faults=faults), tmp_path / "i", tmp_path / "o", retry_errors=True
        )
        assert retried.complete and retried.errors == 45


def test_an_engine_that_works_no_more_ends_a_run_that_has_texts(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 70)
    run_with(ScriptedEngine(), tmp_path / "i", tmp_path / "o", limit=20)
    records = prepare_caption(
        CaptionConfig.of(model="m", engine="scripted", images=tmp_path / "i", out=tmp_path / "x")
    ).plan.records
    dead = ScriptedEngine(faults={record.sample_id: "fail" for record in records})
    with pytest.raises(UserError, match="failed on each of the first"):
        run_with(dead, tmp_path / "i", tmp_path / "o", limit=70, append=True)
    assert read_run(tmp_path / "o")["counts"] == {"rows": 20, "ok": 20, "errors": 0}


class FullGpu(ScriptedEngine):
    """Its GPU has less and less memory free, in GiB of 80."""

    def __init__(self, *free: int) -> None:
        super().__init__()
        self.free = iter(free)

    def measure(self) -> dict[str, int]:
        total = 80 << 30
        return {"gpus": 1, "gpu_memory": total - (next(self.free) << 30), "gpu_memory_total": total}


def test_gpu_memory_that_runs_out_is_told_once(tmp_path: Path) -> None:
    ticks = iter(range(0, 10**6, 40))
    events = RunEvents(tmp_path, owner="", clock=lambda: next(ticks))
    engine = FullGpu(5, 1, 0)
    told = [events.count(9, engine=engine, decoded=0, left=left) for left in range(3, -1, -1)]
    assert [line is not None for line in told] == [False, False, True, False]
    assert "--gpu-memory" in (told[2] or "")
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["gpu_memory"] >> 30 for line in lines] == [75, 79, 80]


def test_events_tell_how_a_run_went(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 9)
    ticks = iter(range(0, 10**6, 20))
    events = RunEvents(tmp_path, owner="rank 0 of 1", clock=lambda: next(ticks))
    engine = ScriptedEngine(window=8)
    for left in range(5, 0, -1):
        events.count(120, engine=engine, decoded=3, left=left)
    events.tell("the engine is started anew")
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    # From the first text on, every 40 of these seconds, in which two images of 120 tokens came.
    assert [line.get("tokens_per_second") for line in lines] == [6.0, 6.0, None]
    first = lines[0]
    assert (first["images"], first["left"], first["decoded"], first["window"]) == (3, 3, 3, 8)
    assert (first["running"], first["waiting"]) == (0, 0)
    assert first["memory"] > 0 and lines[-1]["event"] == "the engine is started anew"


def read_events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def test_the_last_event_has_the_totals_however_short_the_run(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 3)
    out = tmp_path / "out"
    run_with(ScriptedEngine(), tmp_path / "i", out, stop=lambda: True)
    assert (read_events(out)[-1]["ended"], read_events(out)[-1]["left"]) == ("interrupted", 3)

    class Dying(ScriptedEngine):
        def collect(self) -> list[Generation]:
            raise UserError("it is gone")

    with pytest.raises(UserError, match="gone"):
        run_with(Dying(), tmp_path / "i", out)
    assert (read_events(out)[-1]["ended"], read_events(out)[-1]["images"]) == ("failed", 0)
    run_with(ScriptedEngine(), tmp_path / "i", out)
    lines = read_events(out)
    assert any("starting scripted" in line.get("event", "") for line in lines)
    tokens = sum(row["caption_tokens"] for row in read_rows(out).to_pylist())
    last = lines[-1]
    assert (last["ended"], last["images"], last["left"]) == ("finished", 3, 0)
    assert last["tokens"] == tokens > 0 and last["seconds"] >= 0
    assert (last["running"], last["waiting"]) == (0, 0)
    # Nothing was left to do, and nothing is told.
    run_with(ScriptedEngine(), tmp_path / "i", out)
    assert len(read_events(out)) == len(lines)
