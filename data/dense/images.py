"""The images of a run's rows: where they are, and whether they are still the captioned ones."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.dense.run import PLAN_NAME
from data.files.hashes import hash_bytes
from data.images import ImageError, Status


def find_locators(directory: Path, sample_ids: Sequence[str]) -> list[bytes | None]:
    """The locator of each of these rows, from the run's plan; None where the name is enough.

    By id, since a run with several samples has more rows than its plan has images.
    """
    try:
        plan = pq.read_table(
            directory / PLAN_NAME,
            columns=["sample_id", "locator"],
            filters=[("sample_id", "in", sample_ids)],
            partitioning=None,
        )
    except (pa.ArrowException, OSError):
        # A run without its plan: nearly every name is its own address.
        return [None] * len(sample_ids)
    locators = dict(zip(*(column.to_pylist() for column in plan.columns), strict=True))
    return [locators.get(sample_id) for sample_id in sample_ids]


def refuse_other(content: bytes, sha256: str | None) -> bytes:
    """The bytes of an image, if `sha256`, the `image_sha256` of its row, is theirs or unknown.

    Raises:
        ImageError: archives and tables are read by position, and this one has changed.
    """
    if sha256 not in (None, hash_bytes(content)):
        reason = "it is not the image that was captioned: its SHA-256 differs"
        raise ImageError(Status.DECODE_ERROR, reason)
    return content
