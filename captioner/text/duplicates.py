"""Finding the same text for many different images, a sign that the model ignored them."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# Two photos may get the same short text, but three rarely do.
DUPLICATE_IMAGES = 3
# Number of rows converted to Python strings at a time.
_ROWS = 65_536

# Or an Arrow column, plain or chunked.
Strings = Sequence[str | None]
Hashes = npt.NDArray[np.uint64]


def find_duplicates(captions: Strings, image_sha256s: Strings) -> npt.NDArray[np.bool_]:
    """Which rows have a text that occurs for DUPLICATE_IMAGES or more different images.

    Texts are equal if they only differ in case and white space. Images are identified by their
    hash; a row without one counts as an image of its own. A missing or empty text is never a
    duplicate.

    Returns:
        One value per row, in order.

    Raises:
        ValueError: the columns differ in length.
    """
    if len(captions) != len(image_sha256s):
        raise ValueError(f"{len(captions)} texts, but {len(image_sha256s)} image hashes")
    return mark_duplicates(hash_texts(captions), hash_images(image_sha256s))


def mark_duplicates(texts: Hashes, images: Hashes) -> npt.NDArray[np.bool_]:
    """`find_duplicates` from hashes (N,), which can be computed in parts."""
    (rows,) = np.nonzero(texts)
    rows = rows[np.lexsort((images[rows], texts[rows]))]
    ordered, beside = texts[rows], images[rows]
    # Only the first of equal (text, image) pairs, which are now adjacent, counts.
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (ordered[1:] != ordered[:-1]) | (beside[1:] != beside[:-1])
    distinct, counts = np.unique(ordered[first], return_counts=True)
    return np.isin(texts, distinct[counts >= DUPLICATE_IMAGES])


def hash_texts(captions: Strings) -> Hashes:
    """64-bit hashes of normalized texts, 0 for none: they take less memory than the texts."""
    hashes = np.zeros(len(captions), dtype=np.uint64)
    for row, text in enumerate(_iterate(captions)):
        if text and (normal := " ".join(text.lower().split())):
            hashes[row] = _hash(normal) or 1
    return hashes


def hash_images(image_sha256s: Strings, *, start: int = 0) -> Hashes:
    """64 bits of each image's hash; if there is none, the row number, counted from `start`."""
    hashes = np.arange(start, start + len(image_sha256s), dtype=np.uint64)
    for row, known in enumerate(_iterate(image_sha256s)):
        if known is not None:
            hashes[row] = _hash(known)
    return hashes


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())


def _iterate(values: Strings) -> Iterator[str | None]:
    for start in range(0, len(values), _ROWS):
        part = values[start : start + _ROWS]
        yield from part.to_pylist() if isinstance(part, pa.ChunkedArray | pa.Array) else part
