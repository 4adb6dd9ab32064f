"""Jobs with their images where a source can only be read from front to back."""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from queue import SimpleQueue

from captioner.decode.pool import Job
from captioner.decode.source_watch import SourceGoneError
from data.errors import UserError
from data.images import ImageError
from data.sources import Source

# Images read ahead of the decoders; a hundred photos are some 10 MB.
_AHEAD = 128
_ROW = b"row:"


def attach_images(jobs: Iterator[Job], source: Source) -> Iterator[Job]:
    """Hand jobs on; rows of a streamed data set get their image's bytes, read by one thread.

    Everything else is read by the decoding processes, each image where it is. Jobs are asked for
    in the caller's thread, at most _AHEAD of them early. SourceGoneError if the stream breaks off.
    """
    return _attach(jobs, source) if source.options.get("streaming") else jobs


def _attach(jobs: Iterator[Job], source: Source) -> Iterator[Job]:
    asked: SimpleQueue[int | None] = SimpleQueue()
    given: SimpleQueue[bytes | ImageError | BaseException] = SimpleQueue()
    thread = threading.Thread(target=_read, args=(source, asked, given), daemon=True)
    thread.start()
    waiting: deque[Job] = deque()
    try:
        while True:
            while len(waiting) < _AHEAD and (job := next(jobs, None)) is not None:
                waiting.append(job)
                if job.address.startswith(_ROW):
                    asked.put(int(job.address.removeprefix(_ROW)))
            if not waiting:
                return
            if not waiting[0].address.startswith(_ROW):
                yield waiting.popleft()
                continue
            content = given.get()
            if isinstance(content, UserError):
                # Every row after it would fail alike.
                raise SourceGoneError(
                    f"{content}. What is done is saved: run the same command again"
                ) from content
            if isinstance(content, BaseException) and not isinstance(content, ImageError):
                raise content
            yield replace(waiting.popleft(), content=content)
    finally:
        asked.put(None)


def _read(
    source: Source,
    asked: "SimpleQueue[int | None]",
    given: "SimpleQueue[bytes | ImageError | BaseException]",
) -> None:
    from data.sources.dataset import stream_images

    try:
        rows: Iterator[int] = iter(asked.get, None)
        for content in stream_images(source, rows):
            given.put(content)
    except BaseException as error:  # carried to the thread that takes, and raised there
        given.put(error)
