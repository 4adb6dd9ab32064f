"""The bytes of a run's images, for the exports that carry them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioner.store.plan import read_plan
from data.dense.run import find_source
from data.errors import UserError
from data.files.formats import describe_bytes, name_ending
from data.files.hashes import hash_bytes
from data.images import ImageError
from data.sources.reader import ImageReader

_WAYS = "specify their folder with --images, or the remaining images with --ids"


class Pictures:
    """Reads images by the sample_id of their row, and makes sure they are those captioned."""

    def __init__(self, directory: Path, run: Mapping[str, Any], *, images: Path | None) -> None:
        """`images` is where they lie now, if not where the run says.

        Raises:
            UserError: the run does not say where its images are.
        """
        self._reader = ImageReader(find_source(run, where=directory, images=images))
        plan = read_plan(directory, shard_size=int(run["shard_size"]))
        self._addresses = {record.sample_id: record.address for record in plan.records}

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The original bytes.

        Raises:
            UserError: they are not available, or are not those that were captioned.
        """
        name = row["file_name"]
        try:
            content = self._reader.read(self._addresses[row["sample_id"]])
        except ImageError as error:
            raise UserError(f"the image {name} can no longer be read ({error}): {_WAYS}") from error
        if row["image_sha256"] not in (None, hash_bytes(content)):
            raise UserError(
                f"the image {name} is not the one that was captioned (its SHA-256 differs): {_WAYS}"
            )
        return content


def name_kind(content: bytes, *, file_name: str) -> str:
    """The usual ending of an image's kind: jpg, png, ...

    Raises:
        UserError: no kind that is known.
    """
    kind = name_ending(content)
    if kind is None:
        raise UserError(f"the image {file_name} is not of a known kind: {describe_bytes(content)}")
    return kind
