"""Runs of batch files that are killed or stopped, and how many files they keep open."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from captioner.engine.batch.folder import list_answers, list_requests
from captioner.run.session import caption
from captioner.store.verification import verify_run
from tests.captioner.batch_service import answer, list_images, read_requests, write_answers
from tests.captioner.engine.batch_runs import ALL, COUNT, run, shard_bytes, write_colors

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_colors(tmp_path / "images")


SLOW = """
import sys
from pathlib import Path
from captioner.run.session import caption
from tests.captioner.scripted_run import tell_until

images, most, event = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
tell = tell_until(most)

def hear(line):
    if event and event in line:
        print("told", flush=True)
        tell_until(0)(type("P", (), {"done": 0}))

out, requests = images.parent / "out", images.parent / "requests"
caption(model="tiny", images=images, out=out, aspect="squash", shard_size=5,
        batch_file=requests, on_progress=tell, on_event=hear)
"""


def kill_when(images: Path, line: str, *, most: float = float("inf"), event: str = "") -> None:
    """Kill a run as soon as it prints a line; it waits for that by itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(images), str(most), event],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    while said and said != f"{line}\n":
        said = process.stdout.readline()
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def test_killed_while_answers_are_read(images: Path, tmp_path: Path) -> None:
    run(images)
    folder = tmp_path / "requests"
    write_answers(folder / "a.jsonl", answer(read_requests(folder)), shuffle=5)
    assert run(images, out=tmp_path / "whole").complete
    for done in (3, 21):
        kill_when(images, str(done), most=done)
    assert run(images).generated < COUNT - 20
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert not verify_run(tmp_path / "out").problems


def test_killed_while_requests_are_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of requests is whole or not there; the next run writes what no file has."""
    folder = tmp_path / "requests"
    kill_when(images, "told", event="requests-00001.jsonl")
    assert list_images(read_requests(folder)) == [0, *ALL]
    (folder / "requests-00001.jsonl").unlink()
    kill_when(images, "0", most=0)
    assert not read_requests(folder) and not list_answers(folder)
    run(images)
    assert list_images(read_requests(folder)) == [0, *ALL]
    assert sorted(os.listdir(folder)) == ["requests-00001.jsonl"]


def test_a_stop_publishes_no_half_file(images: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"model": "tiny", "out": tmp_path / "out", "aspect": "squash"}
    seen = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) > 20

    result = caption(images=images, batch_file=tmp_path / "requests", stop=stop, **config)
    assert result.interrupted and not list_requests(tmp_path / "requests")


def test_no_more_shards_are_open_than_are_worked_on(images: Path, tmp_path: Path) -> None:
    """Each has a file, and of files a process may open but some."""
    counts = []

    def count(line: str) -> None:
        paths = []
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # closed by now
                paths.append(os.readlink(link))
        counts.append(sum("journal" in path for path in paths))

    config: dict[str, Any] = {"model": "tiny", "out": tmp_path / "out", "shard_size": 1}
    caption(images=images, batch_file=tmp_path / "requests", on_event=count, **config)
    assert len(counts) > 1 and set(counts) == {0}
