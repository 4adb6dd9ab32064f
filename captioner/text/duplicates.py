"""The same text at many different images: it says that the model did not look."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# Two photos may well get the same short text; three seldom do.
DUPLICATE_IMAGES = 3
# What is turned into Python strings at a time.
_ROWS = 65_536

# Or an Arrow column, plain or of chunks.
Strings = Sequence[str | None]
Hashes = npt.NDArray[np.uint64]


def find_duplicates(captions: Strings, image_sha256s: Strings) -> npt.NDArray[np.bool_]:
    """Which rows have a text that stands at DUPLICATE_IMAGES different images or more.

    Texts are the same where they differ in case and white space alone. Images are told apart by
    their hash; a row without one counts as an image of its own. A missing or empty text is never
    a duplicate.

    Returns:
        One value a row, in order.

    Raises:
        ValueError: the columns differ in length.
    """
    if len(captions) != len(image_sha256s):
        raise ValueError(f"{len(captions)} texts, but {len(image_sha256s)} image hashes")
    return mark_duplicates(hash_texts(captions), hash_images(image_sha256s))


def mark_duplicates(texts: Hashes, images: Hashes) -> npt.NDArray[np.bool_]:
    """`find_duplicates` from hashes (N,), which may have been taken part by part."""
    (rows,) = np.nonzero(texts)
    rows = rows[np.lexsort((images[rows], texts[rows]))]
    ordered, beside = texts[rows], images[rows]
    # Of equal pairs of a text and an image, which lie side by side now, only the first counts.
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (ordered[1:] != ordered[:-1]) | (beside[1:] != beside[:-1])
    distinct, counts = np.unique(ordered[first], return_counts=True)
    return np.isin(texts, distinct[counts >= DUPLICATE_IMAGES])


def hash_texts(captions: Strings) -> Hashes:
    """64 bits of each normalised text, 0 for none: a million texts need not be held at once."""
    hashes = np.zeros(len(captions), dtype=np.uint64)
    for row, text in enumerate(_iterate(captions)):
        if text and (normal := " ".join(text.lower().split())):
            hashes[row] = _hash(normal) or 1
    return hashes


def hash_images(image_sha256s: Strings, *, start: int = 0) -> Hashes:
    """64 bits of each image's hash; the row's own number, from `start` on, where there is none."""
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
