"""Jobs that start together: one lists the images, whatever becomes of it, and the others wait."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.run import together
from captioner.run.session import caption
from captioner.settings import found
from captioner.settings.config import CaptionConfig
from captioner.settings.images import list_run_source
from captioner.settings.prepare import PreparedRun
from captioner.store.leases import Leases
from captioner.store.verification import verify_run
from data.dense.run import read_run
from data.dense.shards import list_shards, read_rows
from data.errors import UserError
from tests.captioner.images import write_images
from tests.captioner.leases import end_leases, keep_leases
from tests.captioner.run.texts import THREE, all_bytes, configure
from tests.waiting import HANG_SECONDS, wait_until

ROOT = Path(__file__).resolve().parents[3]


def configure_job(folder: Path, rank: int, size: int, **options: Any) -> CaptionConfig:
    usual = {"model": "any", "engine": "scripted", "images": folder / "i", "out": folder / "out"}
    return CaptionConfig.of(
        **{**usual, "shard_size": 10, "rank": rank, "world_size": size, **options}
    )


def count_listings(folder: Path, *, hold: bool) -> None:
    """In this process, note each listing in a file; with `hold` it goes on once `go` is there."""

    def listed(*args: Any, **options: Any) -> Any:
        with (folder / "listings").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if hold:
            wait_until((folder / "go").exists)
        return list_run_source(*args, **options)

    found.list_run_source = listed


def work(folder: str, rank: str, size: str, hold: str = "", append: str = "") -> None:
    """One job, as a process; its messages are lines of its output."""
    count_listings(Path(folder), hold=bool(hold))
    together._FIRST_SECONDS = 0.0
    config = configure_job(Path(folder), int(rank), int(size), append=bool(append))
    caption(config, on_event=lambda line: print(line, flush=True))


def start(*words: object) -> "subprocess.Popen[str]":
    program = "import sys; from tests.captioner.run.test_together import work; work(*sys.argv[1:])"
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def read_until(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    assert any(word in line for line in process.stdout), f"it ended without {word!r}"


def finish(*processes: "subprocess.Popen[str]") -> None:
    for process in processes:
        process.communicate(timeout=HANG_SECONDS)
        assert process.returncode == 0


def list_listers(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "listings").read_text().split()]


def start_three(
    folder: Path, append: str
) -> "tuple[subprocess.Popen[str], list[subprocess.Popen[str]]]":
    """A job that has begun to list the images and is held there, and two that wait for it."""
    write_images(folder / "i", 60)
    if append:
        assert caption(configure_job(folder, 0, 1)).complete
        write_images(folder / "i", 90)
    lister = start(folder, 0, 3, "hold", append)
    wait_until((folder / "listings").exists)
    others = [start(folder, rank, 3, "", append) for rank in (1, 2)]
    for other in others:
        read_until(other, "rank 0 of 3 is listing the images")
    return lister, others


def read_shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in list_shards(out)}


@pytest.mark.parametrize("append", ["", "append"])
def test_of_three_jobs_one_lists_the_images(tmp_path: Path, append: str) -> None:
    lister, others = start_three(tmp_path, append)
    (tmp_path / "go").touch()
    finish(lister, *others)
    assert list_listers(tmp_path) == [lister.pid]
    assert verify_run(tmp_path / "out").ok
    assert read_rows(tmp_path / "out").num_rows == (90 if append else 60)
    assert not (tmp_path / "out" / "leases").exists()


@pytest.mark.parametrize("append", ["", "append"])
def test_a_lister_that_was_killed_is_followed_by_another(tmp_path: Path, append: str) -> None:
    lister, others = start_three(tmp_path, append)
    lister.kill()
    lister.communicate()
    # As if two minutes had gone by.
    end_leases(tmp_path / "out" / "leases", "listing")
    finish(*others)
    assert lister.returncode == -signal.SIGKILL
    first, *more = list_listers(tmp_path)
    # Two that take over at once both list, which does no harm.
    assert first == lister.pid and more and set(more) <= {other.pid for other in others}
    assert read_rows(tmp_path / "out").num_rows == (90 if append else 60)
    assert caption(configure_job(tmp_path, 0, 3)).complete and verify_run(tmp_path / "out").ok


def test_one_that_is_started_again_need_not_wait(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 20)
    lister = start(tmp_path, 1, 2, "hold")
    wait_until((tmp_path / "listings").exists)
    lister.kill()
    lister.communicate()
    assert (tmp_path / "out" / "leases" / "listing").is_file()
    assert caption(configure_job(tmp_path, 1, 2)).complete


def test_an_error_of_the_lister_is_that_of_all_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_leases(monkeypatch)
    (tmp_path / "i").mkdir()
    with pytest.raises(UserError, match="no images in"):
        caption(configure_job(tmp_path, 0, 2))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="out is a file"):
        caption(configure_job(tmp_path, 0, 2))


def test_a_stop_is_heard_while_another_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_leases(monkeypatch)
    write_images(tmp_path / "i", 20)
    with Leases(tmp_path / "out" / "leases", owner="rank 1 of 2") as living:
        assert living.take("listing")
        with pytest.raises(UserError, match="stopped") as caught:
            caption(configure_job(tmp_path, 0, 2), stop=lambda: True)
    assert caught.value.exit_code == 130


def run_while_another_lists(folder: Path, do: Callable[[], None], config: CaptionConfig) -> None:
    """`config` as a job that finds the lease of another, who then does something and goes."""
    lines: list[str] = []
    with Leases(folder / "leases", owner="rank 7 of 8") as other:
        assert other.take("listing")
        thread = threading.Thread(target=caption, args=(config,), kwargs={"on_event": lines.append})
        thread.start()
        wait_until(lambda: any("rank 7 of 8 is listing" in line for line in lines))
        do()
        other.release("listing")
        thread.join()


def test_a_limit_that_adds_nothing_is_taken_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan does not change then, and yet nobody need look again."""
    keep_leases(monkeypatch)
    monkeypatch.setattr(together, "_FIRST_SECONDS", 0.0)
    write_images(tmp_path / "i", 20)
    assert caption(configure_job(tmp_path, 0, 1, limit=30)).complete
    listed: list[object] = []
    job = configure_job(tmp_path, 1, 8, limit=40, append=True)

    def look_elsewhere() -> None:
        together._begin(together.prepare_either(job))
        monkeypatch.setattr(found, "list_run_source", lambda *_, **__: listed.append(1))

    run_while_another_lists(tmp_path / "out", look_elsewhere, job)
    assert not listed and read_run(tmp_path / "out")["complete"]


def test_several_texts_are_planned_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_leases(monkeypatch)
    monkeypatch.setattr(together, "_FIRST_SECONDS", 0.0)
    write_images(tmp_path / "i", 20)
    job = configure(tmp_path, THREE, rank=1, world_size=2)
    listed: list[object] = []

    def look_elsewhere() -> None:
        together._begin(together.prepare_either(job))
        monkeypatch.setattr(found, "list_run_source", lambda *_, **__: listed.append(1))

    run_while_another_lists(tmp_path / "out" / next(iter(THREE)), look_elsewhere, job)
    assert not listed
    assert set(all_bytes(tmp_path / "out")) == set(THREE)
    for name in THREE:
        assert verify_run(tmp_path / "out" / name).ok


def test_whoever_comes_later_looks_anew(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 20)
    assert caption(configure_job(tmp_path, 0, 2)).complete
    write_images(tmp_path / "i", 30)
    assert caption(configure_job(tmp_path, 1, 2)).rows == 20
    assert caption(configure_job(tmp_path, 1, 2, append=True)).rows == 30
    before = read_shards(tmp_path / "out")
    assert caption(configure_job(tmp_path, 0, 2, append=True)).generated == 0
    assert read_shards(tmp_path / "out") == before


def test_jobs_that_will_have_nothing_to_do_are_told_of(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 60)

    def find_warnings(jobs: int, **options: Any) -> list[str]:
        prepared = together.prepare_either(configure_job(tmp_path, 0, jobs, **options))
        assert isinstance(prepared, PreparedRun)
        return [note for note in prepared.notes if "--shard-size" in note]

    assert not find_warnings(6) and not find_warnings(1, shard_size=1000)
    (warning,) = find_warnings(8)
    assert "8 jobs and only 6 shards" in warning and "--shard-size 1 has" in warning
    (warning,) = find_warnings(3, shard_size=1000)
    assert "1 shard of" in warning and "2 of the jobs" in warning and "\n" not in warning
    # What a run that grows has besides is written.
    assert caption(configure_job(tmp_path, 0, 1)).complete
    write_images(tmp_path / "i", 75)
    assert not find_warnings(2, append=True) and "2 shards" in find_warnings(3, append=True)[0]
