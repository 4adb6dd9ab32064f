"""Distinguishes a source that is gone (a mount, a server) from missing or broken images.

A source that returns something other than images (such as a login page) counts as gone.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from captioner.decode.pool import FETCHERS
from data.errors import UserError
from data.sources import ImageRecord, Source
from data.sources.record import find_loss

Failure = TypeVar("Failure")

# After this many unreadable images in a row, the source is checked; twice as many after each false
# alarm.
_SUSPICIOUS, _MOST_SUSPICIOUS = 16, 1024
# Images are read concurrently: one that was read just before the source went away may arrive after
# one that failed just after.
_SIDE_BY_SIDE = FETCHERS + 32
WITNESSES = 3
# Failures kept until the first success; beyond that, none is expected.
_MOST_HELD = 4096


class SourceGoneError(UserError):
    """All images are gone."""


class DeadSourceError(SourceGoneError):
    """Not a single image could be read."""


class SourceWatch(Generic[Failure]):
    """Holds failures back until it is known whether images or the source caused them."""

    def __init__(
        self,
        source: Source,
        *,
        can_read: Callable[[bytes], bool],
        find_read: Callable[[], Sequence[ImageRecord]],
    ) -> None:
        """`can_read` tests whether an image can be read now; `find_read` lists some that were read.

        The latter were read before this watch was created, or outside of it.
        """
        self._source = source
        self._can_read = can_read
        self._find_read = find_read
        self._witnesses: deque[ImageRecord] = deque(maxlen=WITNESSES)
        self._held: deque[tuple[int, Failure]] = deque()
        self._read = self._streak = 0
        self._reason = ""
        self._suspicious = _SUSPICIOUS

    def note_read(self, image: ImageRecord) -> list[Failure]:
        """An image was read; returns the failures now known to be the images' own."""
        self._witnesses.append(image)
        self._read += 1
        self._streak, self._suspicious = 0, _SUSPICIOUS
        resolved = []
        while self._held and self._read - self._held[0][0] >= _SIDE_BY_SIDE:
            resolved.append(self._held.popleft()[1])
        return resolved

    def note_failure(self, failure: Failure, reason: str) -> list[Failure]:
        """An image could not be read; returns the failures now known to be the images' own.

        Raises:
            SourceGoneError: the source is gone, so the failures that were held back are not the
                images'.
        """
        self._held.append((self._read, failure))
        self._reason = reason
        self._streak += 1
        if self._streak < self._suspicious:
            return []
        self._suspicious = min(2 * self._suspicious, self._streak + _MOST_SUSPICIOUS)
        works = self._read or self._find_read()
        if not works and len(self._held) < _MOST_HELD and find_loss(self._source) is None:
            # The first success will decide, or the end.
            return []
        return self.resolve(reason)

    def resolve(self, reason: str = "") -> list[Failure]:
        """Check now; returns all failures that were held back.

        Raises:
            SourceGoneError: as for `note_failure`.
        """
        if self._held:
            self._refuse_loss(reason or self._reason)
        resolved = [failure for _, failure in self._held]
        self._held.clear()
        return resolved

    def _is_streamed(self, image: ImageRecord) -> bool:
        """Reading a row of a stream again would mean streaming everything again."""
        return bool(self._source.options.get("streaming")) and image.address.startswith(b"row:")

    def _refuse_loss(self, reason: str) -> None:
        lost = find_loss(self._source)
        if lost is None:
            known = [*self._witnesses] or [*self._find_read()]
            if not known:
                raise DeadSourceError(
                    f"none of the {len(self._held):,} images could be read ({reason}), so no row "
                    "was written: make the images readable and run the same command again"
                )
            # The last one first: it is most likely to be in the same place as the missing ones.
            witnesses = [image for image in reversed(known) if not self._is_streamed(image)]
            if not witnesses or any(self._can_read(image.address) for image in witnesses):
                return
            lost = f"{known[-1].file_name}, which was read before,"
        why = f" ({reason})" if reason else ""
        raise SourceGoneError(
            f"the images can no longer be read: {lost} is missing, and so are the last "
            f"{len(self._held):,} images{why}. Finished texts are saved: restore the images and "
            "run the same command again"
        )
