"""The model, indexes, pictures and texts behind a search page, independent of the page."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import UserError
from data.images import ImageError
from pipelines.pages.kit.thumbnails import Thumbnail, load_thumbnail
from pipelines.search_app.pictures import Thumbnails
from pipelines.search_app.texts import ImageTexts, find_shared_names
from vse.search.index import Index
from vse.search.nearest import find_nearest
from vse.search.results import Hit, gather_hits

if TYPE_CHECKING:
    from vse.embedders.embedder import Embedder

NOTHING_ASKED = "Type a text or drop a photo, then search."
MOST_LETTERS = 4000


@dataclass(frozen=True)
class Query:
    """A text or a photo, and its embedding (D,)."""

    text: str | None
    picture: Thumbnail | None
    vector: np.ndarray


@dataclass(frozen=True)
class ShownRow:
    """A row of an index; `missing` says why an image has no picture."""

    place: tuple[int, int]  # index, row
    name: str
    text: str | None
    picture: Thumbnail | None
    missing: str | None


@dataclass(frozen=True)
class ShownHit:
    """A hit. `score` is its cosine similarity to the query."""

    rank: int
    score: float
    shown: ShownRow


@dataclass(frozen=True)
class IndexHits:
    """The hits in one index, best first."""

    title: str
    kind: str
    rows: int
    hits: tuple[ShownHit, ...]


@dataclass(frozen=True)
class ComparedText:
    """A text of an image and its cosine similarities; None if there is nothing to compare."""

    text: str
    to_image: float | None
    to_query: float


@dataclass(frozen=True)
class TextComparison:
    """A row of an index with all texts of its image."""

    shown: ShownRow
    image_to_query: float | None
    dense: ComparedText | None
    captions: tuple[ComparedText, ...]
    chosen: ComparedText | None  # the row's own text


class Collection:
    """Answers queries: model and indexes work on one at a time, pictures are read meanwhile."""

    def __init__(
        self,
        embedder: Embedder,
        indexes: Sequence[Index],
        *,
        titles: Sequence[str],
        pictures: Mapping[int, Thumbnails],
        texts: ImageTexts,
        places: Sequence[int] | None = None,
    ) -> None:
        """`titles` of the indexes for the page; `pictures` by number of the index.

        `places`: see `find_shared_names`.
        """
        self.embedder = embedder
        self.indexes = tuple(indexes)
        self.titles = tuple(titles)
        self._pictures = pictures
        self._texts = texts
        self._lock = threading.Lock()
        self._by_name: dict[str, tuple[int, int]] = {}
        shared = find_shared_names(indexes, places)
        for number, index in enumerate(self.indexes):
            if index.info.kind == "images":
                for row, name in enumerate(index.read_file_names()):
                    if name is not None and name not in shared:
                        self._by_name.setdefault(name, (number, row))

    def ask_text(self, text: str | None) -> Query:
        """Embed a text. UserError if it is blank or too long."""
        words = (text or "").strip()
        if not words:
            raise UserError(NOTHING_ASKED)
        if len(words) > MOST_LETTERS:
            raise UserError(
                f"The text has {len(words):,} characters; the limit is {MOST_LETTERS:,}."
            )
        with self._lock:
            return Query(words, None, self.embedder.encode_queries([words])[0])

    def ask_photo(self, content: bytes) -> Query:
        """Embed the bytes of an image file. UserError if it cannot be read."""
        try:
            picture = load_thumbnail(content)
        except ImageError as error:
            raise UserError(f"This photo cannot be read: {error}.") from error
        with self._lock:
            return Query(None, picture, self.embedder.encode_image([content])[0])

    def search(self, query: Query, *, top: int) -> tuple[IndexHits, ...]:
        """The nearest rows of each index."""
        with self._lock:
            found = [self._find(index, query, top) for index in self.indexes]
        return tuple(
            IndexHits(
                self.titles[number],
                index.info.kind,
                len(index),
                tuple(self._show_hit(number, hit) for hit in found[number]),
            )
            for number, index in enumerate(self.indexes)
        )

    def compare(self, query: Query, place: tuple[int, int]) -> TextComparison:
        """The texts of a row's image.

        Raises:
            UserError: there is no such row.
        """
        number, row = place
        if not (0 <= number < len(self.indexes) and 0 <= row < len(self.indexes[number])):
            raise UserError("This result no longer exists. Search again.")
        with self._lock:
            [about] = self.indexes[number].read_rows([row])
            name, own = about["file_name"], about["text"]
            pictured = place if own is None else self._by_name.get(name or "")
            texts = self._texts.find(name)
            vector, image = None, None
            if pictured is not None:
                [vector] = self.indexes[pictured[0]].read_vectors([pictured[1]])
                [image] = self.indexes[pictured[0]].read_rows([pictured[1]])
            said = [own, texts.dense, *texts.captions]
            compared = self._compare_texts(said, vector, query.vector)
        pictures = None if pictured is None else self._pictures.get(pictured[0])
        return TextComparison(
            self._show(place, about, image, pictures),
            None if vector is None else cosine(vector, query.vector),
            dense=compared[1],
            captions=tuple(text for text in compared[2:] if text is not None),
            chosen=compared[0],
        )

    def _find(self, index: Index, query: Query, top: int) -> tuple[Hit, ...]:
        top = min(top, len(index))
        return gather_hits(index, find_nearest(index.blocks(), query.vector[None], top=top), 0)

    def _show_hit(self, number: int, hit: Hit) -> ShownHit:
        about = {name: getattr(hit, name) for name in ("id", "file_name", "text", "locator")}
        shown = self._show((number, hit.row), about, about, self._pictures.get(number))
        return ShownHit(hit.rank, hit.score, shown)

    def _show(
        self,
        place: tuple[int, int],
        about: Mapping[str, Any],
        image: Mapping[str, Any] | None,
        pictures: Thumbnails | None,
    ) -> ShownRow:
        """A row, with the picture of the row `image`; not under the lock, as it may be fetched."""
        picture, missing = None, None
        if image is not None and pictures is not None:
            try:
                picture = pictures.load(image)
            except ImageError as error:
                missing = str(error)
        return ShownRow(place, about["file_name"] or about["id"], about["text"], picture, missing)

    def _compare_texts(
        self, texts: Sequence[str | None], image: np.ndarray | None, query: np.ndarray
    ) -> list[ComparedText | None]:
        given = [text for text in texts if text is not None]
        vectors = iter(self.embedder.encode_queries(given))
        found: list[ComparedText | None] = []
        for text in texts:
            if text is None:
                found.append(None)
                continue
            vector = next(vectors)
            to_image = None if image is None else cosine(image, vector)
            found.append(ComparedText(text, to_image, cosine(query, vector)))
        return found


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine similarity of two vectors of length 1, (D,), summed in float64 as in a search."""
    return float((one.astype(np.float64) * other).sum())
