"""Decoding ahead of the engine: a few processes, a bounded number of images, in any order."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from PIL import Image

from captioner.channel import read_frame, write_frame
from captioner.llava.preprocess import Preprocessing
from data.images import ImageError, Status
from data.sources.download import WebAddress
from data.sources.reader import fetch_found
from data.sources.record import Source

_ROOT = Path(__file__).resolve().parents[2]
# -P and the explicit folder: a `data` package in the current folder must not shadow ours.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from captioner.decode.worker import main; main()"
)
# A decoder that takes this long for one image hangs, even with a slow disk.
_SECONDS_PER_IMAGE = 120.0
# How often to look for the next image of a source that is read in order, if all others are taken.
_POLL_SECONDS = 0.01
# Signals that the owner handles; they reach the whole process group.
_OWNERS = (signal.SIGINT, signal.SIGTERM)
# Number of images fetched concurrently: waiting for dead servers must not delay the others.
FETCHERS = 64


@dataclass(frozen=True)
class Job:
    """One image to prepare; `key` comes back with it.

    `content` is the image's bytes, where to fetch them, or the error, if its source was read
    already. Without it a decoding process reads the image at `address`.
    """

    key: Any
    address: bytes
    content: bytes | WebAddress | ImageError | None = None


@dataclass
class Decoded:
    """A prepared image, or why there is none (`status` other than ok, `image` None)."""

    key: Any
    status: str = Status.OK
    error: str | None = None
    image: Image.Image | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None


class DecodePool:
    """Prepares `jobs`, at most `lookahead` of them ahead of the consumer.

    They are started in order and returned as they finish. URLs are fetched by threads, in addition
    to the lookahead, so that the decoding processes never wait for a server. `jobs` gives None
    while its next one is still being read; it is asked again later.
    """

    def __init__(
        self,
        jobs: Iterator[Job | None],
        *,
        source: Source,
        preprocessing: Preprocessing,
        workers: int,
        lookahead: int,
    ) -> None:
        """`source` is the source of the jobs' addresses."""
        self._jobs = jobs
        settings = {"preprocessing": preprocessing.to_dict(), "source": source.to_dict()}
        self._decoders = [_Worker(settings) for _ in range(workers)]
        # Separate from those threads, which may all be waiting for dead servers.
        self._prober = _Worker(settings)
        self._lookahead = max(lookahead, workers)
        self._todo: SimpleQueue[Job | None] = SimpleQueue()
        self._to_fetch: SimpleQueue[Job | None] = SimpleQueue()
        self._done: SimpleQueue[Decoded | Exception] = SimpleQueue()
        self._ahead = self._fetching = 0
        self._lock = threading.Lock()
        self._ended = False
        self._closing = False
        self._threads = [_start(self._work, decoder) for decoder in self._decoders]
        self._fetchers = 0
        self._refill()

    @property
    def exhausted(self) -> bool:
        """Whether every job was taken."""
        return self._ended and not self._ahead

    @property
    def ready(self) -> int:
        """Number of images that are ready."""
        return self._done.qsize()

    def take(self, *, timeout: float) -> Decoded | None:
        """The next image that is ready; None if none is left or ready within `timeout` seconds.

        Raises:
            Exception: whatever prevented a thread from decoding (no process, no memory).
        """
        deadline = time.monotonic() + timeout
        self._refill()
        while not self._ahead and not self._ended and time.monotonic() < deadline:
            time.sleep(min(timeout, _POLL_SECONDS))
            self._refill()
        if not self._ahead:
            return None
        try:
            decoded = self._done.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            return None
        self._ahead -= 1
        if isinstance(decoded, Exception):
            raise decoded
        self._refill()
        return decoded

    def read(self, address: bytes) -> Decoded:
        """Read and decode an image out of turn, and wait for it or its error."""
        return self._prober.prepare(Job(None, address))

    def can_read(self, address: bytes) -> bool:
        """Whether an image can be read and decoded now; waits for the answer."""
        return self.read(address).image is not None

    def close(self) -> None:
        """End the processes; images that are being decoded are dropped."""
        self._prober.stop()
        self._closing = True
        for _ in self._threads:
            self._todo.put(None)
        # Do not wait for these threads: they may be waiting for a server.
        for _ in range(self._fetchers):
            self._to_fetch.put(None)
        # Otherwise, a thread that waits for a slow server would block the exit.
        for decoder in self._decoders:
            decoder.kill()
        for thread in self._threads:
            thread.join(timeout=5)

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refill(self) -> None:
        while (
            not self._ended
            and self._fetching < FETCHERS
            and self._ahead - self._fetching < self._lookahead
        ):
            try:
                job = next(self._jobs)
            except StopIteration:
                self._ended = True
                return
            if job is None:
                return
            self._ahead += 1
            if isinstance(job.content, WebAddress):
                self._fetch(job)
            else:
                self._todo.put(job)

    def _fetch(self, job: Job) -> None:
        with self._lock:
            self._fetching += 1
        self._to_fetch.put(job)
        if self._fetchers < min(FETCHERS, self._fetching):
            self._fetchers += 1
            _start(self._download)

    def _download(self) -> None:
        while (job := self._to_fetch.get()) is not None and not self._closing:
            assert isinstance(job.content, WebAddress)
            try:
                self._todo.put(replace(job, content=fetch_found(job.content)))
            except ImageError as error:
                self._todo.put(replace(job, content=error))
            except Exception as error:  # carried to the thread that takes, and raised there
                self._done.put(error)
            with self._lock:
                self._fetching -= 1

    def _work(self, worker: "_Worker") -> None:
        try:
            while (job := self._todo.get()) is not None and not self._closing:
                try:
                    self._done.put(worker.prepare(job))
                except Exception as error:  # carried to the thread that takes, and raised there
                    worker.stop()
                    self._done.put(error)
        finally:
            worker.stop()


def _start(work: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, name="decode", daemon=True)
    thread.start()
    return thread


class _Worker:
    """One decoding process, started when needed and restarted if an image kills it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def prepare(self, job: Job) -> Decoded:
        """The image, or its error.

        It is only blamed if a second process fails too: the first one may have been suspended
        (Ctrl-Z, Slurm), or killed because the machine was out of memory.
        """
        if isinstance(job.content, ImageError):
            return Decoded(job.key, job.content.status, str(job.content))
        assert not isinstance(job.content, WebAddress)
        asked = job.address if job.content is None else job.content
        error = ""
        for _ in range(2):
            try:
                return _unpack(job.key, *self._ask(asked, content=job.content is not None))
            except TimeoutError:
                error = f"decoding took longer than {_SECONDS_PER_IMAGE:.0f} s"
            except (EOFError, BrokenPipeError):
                error = "the decoder crashed on this image"
            self.stop()
            if self._killed:
                break
        return Decoded(job.key, Status.DECODE_ERROR, error)

    def kill(self) -> None:
        """Kill the process for good; called from a thread other than the one that uses it."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()

    def stop(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, asked: bytes, *, content: bool) -> tuple[dict[str, Any], bytes]:
        if self._process is None:
            self._process = self._start()
            assert self._process.stdin is not None
            write_frame(self._process.stdin.fileno(), self._settings)
            # No deadline: a slow start, with Python on a busy disk, is no fault of the image.
            assert self._process.stdout is not None
            read_frame(self._process.stdout.fileno())
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        write_frame(process.stdin.fileno(), {"content": True} if content else {}, asked)
        deadline = time.monotonic() + _SECONDS_PER_IMAGE
        return read_frame(process.stdout.fileno(), deadline=deadline)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-c", _PROGRAM, str(_ROOT)]
        pipe = subprocess.PIPE
        # The process inherits this. Otherwise a Ctrl-C before it ignores the signal would kill it
        # and turn its image into an error row.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OWNERS)
        try:
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unpack(key: Any, header: dict[str, Any], pixels: bytes) -> Decoded:
    """The answer of a decoding process."""
    decoded = Decoded(
        key,
        header["status"],
        header.get("error"),
        width=header.get("width"),
        height=header.get("height"),
        sha256=header.get("sha256"),
    )
    if pixels:
        decoded.image = Image.frombytes("RGB", tuple(header["shape"]), pixels)
    return decoded
