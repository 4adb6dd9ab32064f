"""Decoding ahead: as images get ready, bounded, and no image takes the others down."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner.channel import read_frame
from captioner.decode import pool as decode_pool
from captioner.decode.pool import FETCHERS, Decoded, DecodePool, Job, _Worker
from captioner.decode.stream import attach_images
from captioner.llava.preprocess import Preprocessing
from data.sources import Source
from tests.captioner.images import write_images
from tests.waiting import HANG_SECONDS, wait_until

SMALL = Preprocessing(aspect="squash", size=14)
HERE = Source("folder")
SETTINGS = {"preprocessing": SMALL.to_dict(), "source": HERE.to_dict()}


def job(key: int, path: Path) -> Job:
    return Job(key, b"path:" + os.fsencode(path))


def take_all(pool: DecodePool) -> Iterator[Decoded]:
    while not pool.exhausted:
        decoded = pool.take(timeout=HANG_SECONDS)
        assert decoded is not None
        yield decoded


def test_good_and_bad(tmp_path: Path) -> None:
    names = write_images(tmp_path, 30)
    (tmp_path / names[7]).write_bytes(b"text")
    (tmp_path / names[11]).unlink()
    jobs = (job(number, tmp_path / name) for number, name in enumerate(names))
    with DecodePool(jobs, source=HERE, preprocessing=SMALL, workers=3, lookahead=5) as pool:
        results = sorted(take_all(pool), key=lambda decoded: decoded.key)
    assert [decoded.key for decoded in results] == list(range(30))
    assert [decoded.key for decoded in results if decoded.status != "ok"] == [7, 11]
    assert results[11].error == "the file does not exist"
    with Image.open(tmp_path / names[3]) as image:
        expected = image.convert("RGB").resize((14, 14), Image.Resampling.BICUBIC)
    assert results[3].image is not None
    assert results[3].image.tobytes() == expected.tobytes()
    assert (results[3].width, results[3].height) == (32, 24)
    assert results[3].sha256 is not None and len(results[3].sha256) == 64


def test_the_lookahead_is_bounded(tmp_path: Path) -> None:
    names = write_images(tmp_path, 20)
    given: list[int] = []

    def jobs() -> Iterator[Job]:
        for number, name in enumerate(names):
            given.append(number)
            yield job(number, tmp_path / name)

    with DecodePool(jobs(), source=HERE, preprocessing=SMALL, workers=1, lookahead=4) as pool:
        for taken in range(20):
            assert len(given) == min(taken + 4, 20)
            assert pool.take(timeout=HANG_SECONDS) is not None
        assert pool.exhausted


def test_a_signal_while_a_decoder_starts_costs_no_image(tmp_path: Path) -> None:
    (name,) = write_images(tmp_path, 1)

    class Hurried(_Worker):
        def _start(self) -> subprocess.Popen[bytes]:
            process = super()._start()
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
            return process

    worker = Hurried(SETTINGS)
    assert worker.prepare(job(0, tmp_path / name)).status == "ok"
    worker.stop()


def test_a_dead_decoder_costs_no_image(tmp_path: Path) -> None:
    names = write_images(tmp_path, 2)
    worker = _Worker(SETTINGS)
    assert worker.prepare(job(0, tmp_path / names[0])).status == "ok"
    assert worker._process is not None
    worker._process.kill()
    assert worker.prepare(job(1, tmp_path / names[1])).status == "ok"
    worker.stop()


def test_an_image_that_kills_each_decoder_is_to_blame(tmp_path: Path) -> None:
    names = write_images(tmp_path, 2)
    starts = 0

    class Mortal(_Worker):
        def _start(self) -> subprocess.Popen[bytes]:
            nonlocal starts
            starts += 1
            process = super()._start()
            if starts <= 2:
                process.kill()
            return process

    worker = Mortal(SETTINGS)
    died = worker.prepare(job(0, tmp_path / names[0]))
    assert (died.status, starts) == ("decode_error", 2) and "crashed" in (died.error or "")
    assert worker.prepare(job(1, tmp_path / names[1])).status == "ok"
    worker.stop()


def test_a_decoder_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_images(tmp_path, 1)
    monkeypatch.setattr(decode_pool, "_SECONDS_PER_IMAGE", 0.0)
    worker = _Worker(SETTINGS)
    hung = worker.prepare(job(0, tmp_path / names[0]))
    assert hung.status == "decode_error" and "longer than 0 s" in (hung.error or "")
    assert worker._process is None


def test_a_suspended_run_blames_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock goes on meanwhile, so that the time of the image is over at once."""
    names = write_images(tmp_path, 1)
    deadlines: list[float] = []

    def read(descriptor: int, *, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
        if deadline is not None:
            deadlines.append(deadline)
            if len(deadlines) == 1:
                raise TimeoutError
        return read_frame(descriptor)

    monkeypatch.setattr(decode_pool, "read_frame", read)
    worker = _Worker(SETTINGS)
    assert worker.prepare(job(0, tmp_path / names[0])).status == "ok" and len(deadlines) == 2
    worker.stop()


def test_a_decoder_that_starts_slowly_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = write_images(tmp_path, 1)
    told: list[float | None] = []

    def read(descriptor: int, *, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
        told.append(deadline)
        return read_frame(descriptor)

    monkeypatch.setattr(decode_pool, "read_frame", read)
    worker = _Worker(SETTINGS)
    assert worker.prepare(job(0, tmp_path / names[0])).status == "ok"
    assert told[0] is None and told[1] is not None
    worker.stop()


def test_a_pool_that_is_closed_starts_no_decoder_again(tmp_path: Path) -> None:
    names = write_images(tmp_path, 1)
    tries = 0

    class Ended(_Worker):
        def _ask(self, asked: bytes, *, content: bool) -> tuple[dict[str, Any], bytes]:
            nonlocal tries
            tries += 1
            self.kill()
            raise EOFError

    assert Ended(SETTINGS).prepare(job(0, tmp_path / names[0])).image is None and tries == 1


def test_what_keeps_a_thread_from_decoding_reaches_whoever_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = write_images(tmp_path, 3)
    start, starts = _Worker._start, 0

    def fail_once(worker: _Worker) -> "subprocess.Popen[bytes]":
        nonlocal starts
        starts += 1
        if starts == 1:
            raise OSError(errno.EAGAIN, "no more processes")
        return start(worker)

    monkeypatch.setattr(_Worker, "_start", fail_once)
    jobs = (job(number, tmp_path / name) for number, name in enumerate(names))
    with DecodePool(jobs, source=HERE, preprocessing=SMALL, workers=1, lookahead=3) as pool:
        with pytest.raises(OSError, match="no more processes"):
            pool.take(timeout=HANG_SECONDS)
        # The thread lives on.
        assert [decoded.key for decoded in take_all(pool)] == [1, 2]


def test_a_data_package_of_the_users_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = write_images(tmp_path, 1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("raise RuntimeError('a stranger')")
    monkeypatch.chdir(tmp_path)
    jobs = iter([job(0, Path(names[0]))])
    with DecodePool(jobs, source=HERE, preprocessing=SMALL, workers=1, lookahead=1) as pool:
        decoded = pool.take(timeout=HANG_SECONDS)
    assert decoded is not None and decoded.status == "ok"


def test_decoders_die_with_their_owner(tmp_path: Path) -> None:
    names = write_images(tmp_path, 1)
    program = (
        "import signal, sys; from data.sources import Source; "
        "from captioner.decode.pool import DecodePool, Job; "
        "from captioner.llava.preprocess import Preprocessing; "
        "jobs = iter([Job(0, b'path:' + sys.argv[1].encode())]); "
        "pool = DecodePool(jobs, source=Source('folder'), preprocessing=Preprocessing(size=14), "
        "workers=1, lookahead=1); "
        f"pool.take(timeout={HANG_SECONDS}); print('ready', flush=True); signal.pause()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / names[0])],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"ready\n"
    threads = Path(f"/proc/{owner.pid}/task").glob("*/children")
    (worker,) = [int(child) for path in threads for child in path.read_text().split()]
    owner.kill()
    owner.wait()
    wait_until(lambda: not os.path.exists(f"/proc/{worker}"))


def test_a_source_of_thousands_of_files(tmp_path: Path) -> None:
    """Their names are more than a command's argument may hold."""
    names = write_images(tmp_path, 1)
    options = {"files": [f"{tmp_path}/{number:0100d}.tar" for number in range(5000)]}
    source = Source("tar", str(tmp_path), options)
    jobs = iter([job(0, tmp_path / names[0])])
    with DecodePool(jobs, source=source, preprocessing=SMALL, workers=1, lookahead=1) as pool:
        decoded = pool.take(timeout=HANG_SECONDS)
    assert decoded is not None and decoded.status == "ok"


@contextlib.contextmanager
def silent_server(count: int) -> Iterator[tuple[bytes, Callable[[], list[socket.socket]]]]:
    """An address that is never answered, and those who ask for it, once there are `count`."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=count))
        address = f"url:http://127.0.0.1:{silent.getsockname()[1]}/x.jpg".encode()
        yield address, lambda: [stack.enter_context(silent.accept()[0]) for _ in range(count)]


def test_dead_servers_hold_up_no_other_image(tmp_path: Path) -> None:
    """More of them than there are decoders, and than the lookahead."""
    names = write_images(tmp_path, 9)
    good = [job(number, tmp_path / name) for number, name in enumerate(names)]
    with silent_server(40) as (address, accept):
        jobs = attach_images(iter([*[Job("dead", address)] * 40, *good]), HERE)
        with DecodePool(jobs, source=HERE, preprocessing=SMALL, workers=2, lookahead=4) as pool:
            accept()
            taken = [pool.take(timeout=HANG_SECONDS) for _ in names]
            assert {decoded and decoded.key for decoded in taken} == set(range(9))
            assert not pool.exhausted


def test_only_so_many_are_fetched_at_once() -> None:
    given: list[int] = []

    def jobs(address: bytes) -> Iterator[Job]:
        for number in range(2 * FETCHERS):
            given.append(number)
            yield Job(number, address)

    with silent_server(FETCHERS) as (address, accept):
        attached = attach_images(jobs(address), HERE)
        with DecodePool(attached, source=HERE, preprocessing=SMALL, workers=1, lookahead=4):
            accept()
            assert len(given) == FETCHERS


def test_closing_does_not_wait_for_a_slow_source() -> None:
    with silent_server(4) as (address, accept):
        jobs = attach_images((Job(number, address) for number in range(4)), HERE)
        pool = DecodePool(jobs, source=HERE, preprocessing=SMALL, workers=4, lookahead=4)
        accept()
        pool.close()
        assert not any(thread.is_alive() for thread in pool._threads)


def test_a_stalled_source_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of tables are read in order; while the storage stalls, the others are taken."""
    names = write_images(tmp_path, 4)
    gate = threading.Event()

    def read(source: Source, addresses: Iterator[bytes]) -> Iterator[bytes]:
        for number, _ in enumerate(addresses):
            if number == 2:
                gate.wait(HANG_SECONDS)
            yield (tmp_path / names[number]).read_bytes()

    monkeypatch.setattr("captioner.decode.stream._read_contents", read)
    table = Source("parquet")
    jobs = attach_images((Job(number, b"row:%d" % number) for number in range(4)), table)
    with DecodePool(jobs, source=HERE, preprocessing=SMALL, workers=1, lookahead=4) as pool:
        for number in (0, 1):
            decoded = pool.take(timeout=HANG_SECONDS)
            assert decoded is not None and decoded.key == number
        assert pool.take(timeout=0.0) is None and not pool.exhausted
        gate.set()
        assert [decoded.key for decoded in take_all(pool)] == [2, 3]
