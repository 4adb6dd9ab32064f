"""The custom_id of a request: its run, file, text and image."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from captioner.engine.protocol import Request

# The prompt without an image and with a blank one, to check whether images are seen.
ALONE, BLANK = "alone", "blank"
_NO_IMAGE = "0" * 8
_FORM = re.compile(r"d2s-([0-9a-f]{16})-([0-9]{5,9})-([0-9a-f]{20}|alone|blank)-([0-9a-f]{8})")


@dataclass(frozen=True)
class RequestId:
    """`run` is the run's id, `number` that of the file of requests, from 1.

    `text` identifies the text within the run; `image` is the beginning of the image's SHA-256.
    """

    run: str
    number: int
    text: str
    image: str = _NO_IMAGE

    def __str__(self) -> str:
        return f"{self.prefix}{self.text}-{self.image}"

    @property
    def prefix(self) -> str:
        """What the ids of a run in one file have in common."""
        return f"d2s-{self.run}-{self.number:05d}-"

    @classmethod
    def parse(cls, value: object) -> RequestId | None:
        """Parse a custom_id; None if it was not written by d2s."""
        found = _FORM.fullmatch(value) if isinstance(value, str) else None
        return None if found is None else cls(found[1], int(found[2]), found[3], found[4])


def name_text(request: Request) -> str:
    """A name for a text: its image, and the number of the attempt."""
    told = f"{request.key}\0{request.seed}\0{request.repetition_penalty}"
    if request.attempt > 1 and request.seed is None and request.repetition_penalty == 1:
        # Only then: other names must stay as they are in existing folders.
        told += f"\0{request.attempt}"
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def name_image(request: Request) -> str:
    """A name for an image: the beginning of its file's hash."""
    return request.image_sha256[:8]
