"""Images of a source for the towers: read and resized by threads, ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from data.errors import UserError
from data.images import ImageError
from data.sources import ImageRecord, Source
from data.sources.download import WebAddress
from data.sources.reader import SharedReader, fetch_found, stream_images
from vse.samples.augmentation import WHOLE, Crop
from vse.samples.images import ImageList

_ROW = b"row:"


class SourceImages:
    """Opens the images of some records; keeps the files of the source open between calls."""

    def __init__(
        self,
        source: Source,
        records: Sequence[ImageRecord],
        *,
        px: int,
        antialias: bool,
        workers: int,
    ) -> None:
        self.px = px
        self._antialias = antialias
        self._records = records
        self._source = source
        self._reader = SharedReader(source)
        self._streamed: Iterator[bytes | WebAddress | ImageError] | None = None
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._ahead = 16 * workers

    def take(self, start: int, stop: int, *, on_image: Callable[[int], None]) -> OrderedImages:
        """The images of records `start` to `stop`; calls must be in order.

        `on_image` receives the number of images read so far.
        """
        if self._streamed is None:
            self._streamed = _stream(self._source, self._records[start:])
        return OrderedImages(self._submit(start, stop), stop - start, self.px, start, on_image)

    def close(self) -> None:
        """End the threads and close the source's files."""
        self._pool.shutdown(cancel_futures=True)
        self._reader.close()

    def _submit(self, start: int, stop: int) -> Iterator[np.ndarray | ImageError]:
        """Pixels or errors, in order, with `_ahead` of them in progress."""
        streaming = bool(self._source.options.get("streaming"))
        waiting: deque[Future[np.ndarray | ImageError]] = deque()
        for record in self._records[start:stop]:
            if streaming and record.address.startswith(_ROW):
                assert self._streamed is not None
                # Read sequentially here; threads only decode.
                waiting.append(self._pool.submit(self._decode, next(self._streamed)))
            else:
                waiting.append(self._pool.submit(self._read, record))
            if len(waiting) > self._ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _read(self, record: ImageRecord) -> np.ndarray | ImageError:
        try:
            return self._decode(self._reader.read(record))
        except ImageError as error:
            return error

    def _decode(self, found: bytes | WebAddress | ImageError) -> np.ndarray | ImageError:
        if isinstance(found, ImageError):
            return found
        try:
            content = fetch_found(found)
        except ImageError as error:
            return error
        try:
            return ImageList([content], px=self.px, antialias=self._antialias).read(0)
        except UserError as error:
            # Its own message says how to fix a list in memory.
            cause = error.__cause__
            assert isinstance(cause, ImageError)
            return cause


class OrderedImages:
    """`vse.samples.images.Pixels` that are read once, in order. One that is broken is black, and
    `broken` says by index why.
    """

    def __init__(
        self,
        pixels: Iterator[np.ndarray | ImageError],
        count: int,
        px: int,
        before: int,
        on_image: Callable[[int], None],
    ) -> None:
        self.px = px
        self.broken: dict[int, ImageError] = {}
        self._pixels = pixels
        self._count = count
        self._before = before
        self._on_image = on_image

    def __len__(self) -> int:
        return self._count

    def read(self, index: int, crop: Crop = WHOLE) -> np.ndarray:
        """(px, px, 3) uint8."""
        found = next(self._pixels)
        self._on_image(self._before + index + 1)
        if isinstance(found, ImageError):
            self.broken[index] = found
            return np.zeros((self.px, self.px, 3), dtype=np.uint8)
        return found


def _stream(
    source: Source, records: Sequence[ImageRecord]
) -> Iterator[bytes | WebAddress | ImageError]:
    """The images of a streamed data set, lazily in one pass."""
    addresses = (record.address for record in records)
    return stream_images(
        source, (int(place.removeprefix(_ROW)) for place in addresses if place.startswith(_ROW))
    )
