"""Scores of all images with all texts, in tiles; with numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# A block has at most this many images with all their texts, and at most this many texts. Five texts
# per image are common. A tile of 5 MB is large enough for all cores to share.
BLOCK_IMAGES, BLOCK_TEXTS = 480, 2400


@dataclass(frozen=True)
class Tile:
    """scores (R, C) of rows `images` of the image table with rows `texts` of the text table.

    `own` are the rows and columns, within `scores`, of the pairs that belong together. The next
    tile overwrites `scores`.
    """

    images: slice
    texts: slice
    scores: np.ndarray
    own: tuple[np.ndarray, np.ndarray]


class Room:
    """Memory that is reused: fresh pages cost more than the work on a tile."""

    def __init__(self, dtype: type) -> None:
        self._cells: np.ndarray = np.empty(0, dtype)

    def take(self, rows: int, columns: int) -> np.ndarray:
        """An array (rows, columns) with undefined content."""
        if len(self._cells) < rows * columns:
            self._cells = np.empty(rows * columns, self._cells.dtype)
        return self._cells[: rows * columns].reshape(rows, columns)


class ScoreTiles:
    """The product of (N, D) images and (M, D) texts, with one tile at a time in memory.

    `image_of` (M,) is the row of each text's own image and ascends. Images and their texts are
    split into matching blocks, so the pairs that belong together are in the tiles on the diagonal.
    """

    def __init__(self, images: np.ndarray, texts: np.ndarray, image_of: np.ndarray) -> None:
        self.images = images
        self.texts = texts
        self.image_of = image_of
        self._first = np.searchsorted(image_of, np.arange(len(images) + 1))
        self._room = Room(np.float32)

    def __iter__(self) -> Iterator[Tile]:
        """Each tile once, after the two diagonal tiles in its row and column."""
        blocks: list[slice] = []
        for block in self._blocks():
            yield self._tile(block, block)
            for before in blocks:
                yield from self._tiles(block, before)
                yield from self._tiles(before, block)
            blocks.append(block)

    def _blocks(self) -> Iterator[slice]:
        """The images of each block; an image with too many texts for a block gets its own."""
        start = 0
        while start < len(self.images):
            fitting = np.searchsorted(self._first, self._first[start] + BLOCK_TEXTS, "right") - 1
            stop = max(start + 1, min(start + BLOCK_IMAGES, int(fitting), len(self.images)))
            yield slice(start, stop)
            start = stop

    def _tiles(self, rows: slice, block: slice) -> Iterator[Tile]:
        """Images `rows` with the texts of a block; in parts for an image with too many texts."""
        width = max(1, int(self._first[block.stop] - self._first[block.start]))
        step = max(1, BLOCK_IMAGES * BLOCK_TEXTS // width)
        for start in range(rows.start, rows.stop, step):
            yield self._tile(slice(start, min(start + step, rows.stop)), block)

    def _tile(self, rows: slice, block: slice) -> Tile:
        texts = slice(int(self._first[block.start]), int(self._first[block.stop]))
        scores = self._room.take(rows.stop - rows.start, texts.stop - texts.start)
        np.matmul(self.images[rows], self.texts[texts].T, out=scores)
        nothing = np.empty(0, np.int64)
        own = (nothing, nothing)
        if rows == block:
            own = self.image_of[texts] - rows.start, np.arange(texts.stop - texts.start)
        return Tile(rows, texts, scores, own)
