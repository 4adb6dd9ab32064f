"""Attaching images to jobs, for sources that are best read sequentially."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue

from captioner.decode.pool import Job
from captioner.decode.source_watch import SourceGoneError
from data.errors import UserError
from data.images import ImageError
from data.sources import Source
from data.sources.download import WebAddress
from data.sources.reader import ImageReader, name_url, stream_images

# Images read ahead of the decoders; a hundred photos are about 10 MB.
_AHEAD = 128
# Rows are read in groups: otherwise each decoding process would read all of them.
_READ_IN_ORDER = ("parquet", "dataset")
_ROWS = (b"row:", b"parquet:")
_URL = b"url:"

_Content = bytes | WebAddress | ImageError


def attach_images(jobs: Iterator[Job], source: Source) -> Iterator[Job | None]:
    """Pass jobs on; rows of data sets and tables get their bytes, read in order by one thread.

    While the bytes of the next one are still being read, None is given in its place: the storage
    may stall, and the caller must not. Everything else is read by the decoding processes, in place;
    URLs are only passed on. Jobs are drawn in the caller's thread, at most _AHEAD of them early.
    SourceGoneError if the stream ends early.
    """
    if source.kind in _READ_IN_ORDER:
        return _attach(jobs, source)
    return (
        replace(job, content=name_url(job.address.removeprefix(_URL)))
        if job.address.startswith(_URL)
        else job
        for job in jobs
    )


def _attach(jobs: Iterator[Job], source: Source) -> Iterator[Job | None]:
    asked: SimpleQueue[bytes | None] = SimpleQueue()
    given: SimpleQueue[_Content | BaseException] = SimpleQueue()
    thread = threading.Thread(target=_read, args=(source, asked, given), daemon=True)
    thread.start()
    waiting: deque[Job] = deque()
    try:
        while True:
            while len(waiting) < _AHEAD and (job := next(jobs, None)) is not None:
                waiting.append(job)
                if job.address.startswith(_ROWS):
                    asked.put(job.address)
            if not waiting:
                return
            if not waiting[0].address.startswith(_ROWS):
                yield waiting.popleft()
                continue
            try:
                content = given.get_nowait()
            except Empty:
                yield None
                continue
            if isinstance(content, UserError):
                # Every later row would fail in the same way.
                raise SourceGoneError(
                    f"{content}. Finished texts are saved: run the same command again"
                ) from content
            if isinstance(content, BaseException) and not isinstance(content, ImageError):
                raise content
            yield replace(waiting.popleft(), content=content)
    finally:
        asked.put(None)


def _read(
    source: Source,
    asked: "SimpleQueue[bytes | None]",
    given: "SimpleQueue[_Content | BaseException]",
) -> None:
    try:
        for content in _read_contents(source, iter(asked.get, None)):
            given.put(content)
    except BaseException as error:  # carried to the thread that takes, and raised there
        given.put(error)


def _read_contents(source: Source, addresses: Iterator[bytes]) -> Iterator[_Content]:
    if source.options.get("streaming"):
        yield from stream_images(source, (int(a.partition(b":")[2]) for a in addresses))
        return
    with contextlib.closing(ImageReader(source)) as reader:
        for address in addresses:
            try:
                yield reader.find(address)
            except ImageError as error:
                yield error
