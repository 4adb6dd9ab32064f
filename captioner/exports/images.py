"""The bytes of a run's images, for exports that include them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioner.store.plan import read_plan
from data.dense.images import refuse_other
from data.dense.run import find_source
from data.errors import UserError
from data.files.formats import describe_bytes, name_ending
from data.images import ImageError
from data.sources.reader import ImageReader

# After this many missing images without a success, give up.
_MOST_LOST = 16
_WAYS = "specify their folder with --images, or the remaining images with --ids"


class Pictures:
    """Reads images by the sample_id of their row, and checks that they are the captioned ones.

    `lost` has the names of images that are no longer available, with the reason.
    """

    def __init__(self, directory: Path, run: Mapping[str, Any], *, images: Path | None) -> None:
        """`images` is their current location, if it differs from the recorded one.

        Raises:
            UserError: the run does not record where its images are.
        """
        self._reader = ImageReader(find_source(run, where=directory, images=images))
        plan = read_plan(directory, shard_size=int(run["shard_size"]))
        self._addresses = {record.sample_id: record.address for record in plan.records}
        self.lost: dict[str, str] = {}
        self._found = 0

    def read(self, row: Mapping[str, Any]) -> bytes | None:
        """The original bytes; None if they are not available or differ from the captioned ones.

        Raises:
            UserError: this is the case for all of the first images: their source is gone or
                different.
        """
        content, reason = self._try(row)
        if reason is None:
            self._found += 1
            return content
        self.lost[row["file_name"]] = reason
        if len(self.lost) >= _MOST_LOST:
            self.refuse_none()
        return None

    def _try(self, row: Mapping[str, Any]) -> tuple[bytes | None, str | None]:
        try:
            content = self._reader.read(self._addresses[row["sample_id"]])
            return refuse_other(content, row["image_sha256"]), None
        except ImageError as error:
            return None, f"can no longer be used ({error})"

    def refuse_none(self) -> None:
        """UserError if none of the images is available."""
        if self.lost and not self._found:
            name, reason = next(iter(self.lost.items()))
            raise UserError(f"the image {name} {reason}, and no other is available: {_WAYS}")

    def describe_lost(self) -> tuple[str, ...]:
        """A line for the user, if images were lost."""
        if not self.lost:
            return ()
        some = "; ".join(f"{name} {reason}" for name, reason in list(self.lost.items())[:3])
        return (f"{len(self.lost):,} images are left out: {some}",)


def name_kind(content: bytes, *, file_name: str) -> str:
    """The usual extension of an image's format: jpg, png, ...

    Raises:
        UserError: an unknown format.
    """
    kind = name_ending(content)
    if kind is None:
        raise UserError(f"the image {file_name} is not of a known kind: {describe_bytes(content)}")
    return kind
