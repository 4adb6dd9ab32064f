"""What a search found, as plain records, and the model that a query must be embedded by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError

if TYPE_CHECKING:
    from vse.search.index import Index
    from vse.search.nearest import NearestRows


@dataclass(frozen=True)
class Hit:
    """One row of the index; `row` counts from 0, `rank` from 1. `locator`: see data.sources."""

    rank: int
    score: float
    row: int
    id: str
    image_id: str | None
    file_name: str | None
    text: str | None
    locator: bytes | None

    @property
    def name(self) -> str:
        """What a reader knows it by."""
        return self.file_name or self.id

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        values = asdict(self)
        del values["locator"]
        return {**values, "score": round(self.score, 6)}


@dataclass(frozen=True)
class QueryHits:
    """A query, a text or the file of an image, and what was found for it, the best first."""

    text: str | None
    image: Path | None
    hits: tuple[Hit, ...]

    @property
    def query(self) -> str:
        """The query as a reader knows it."""
        return f'"{self.text}"' if self.text is not None else str(self.image)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        query = {"text": self.text} if self.text is not None else {"image": str(self.image)}
        return {"query": query, "hits": [hit.to_dict() for hit in self.hits]}


def gather_hits(index: Index, hits: NearestRows, number: int) -> tuple[Hit, ...]:
    """The hits of one query with what the index says of their rows."""
    rows = hits.rows[number].tolist()
    scores = hits.scores[number].tolist()
    known = {entry.name for entry in fields(Hit)}
    return tuple(
        Hit(rank=rank, score=score, row=row, **{k: v for k, v in about.items() if k in known})
        for rank, (row, score, about) in enumerate(
            zip(rows, scores, index.read_rows(rows), strict=True), start=1
        )
    )


def find_indexed_model(indexes: Sequence[Index], model: str | None) -> Path:
    """The folder of the model that made all of some indexes: queries are embedded by no other.

    Args:
        model: where it is now, if it is not where the index says.

    Raises:
        UserError: it is not here, or one of the indexes was made by another or is empty.
    """
    from vse.runs.models import find_model, identify_model

    for index in indexes:
        if not len(index):
            raise UserError(f"{index.path} has no rows to search")
    name = model or indexes[0].info.model
    try:
        folder = find_model(name)
        identity = identify_model(folder, name=name)
    except UserError as error:
        if model is not None:
            raise
        raise UserError(
            f"{indexes[0].path} was made by the model {name}, which was not found: specify it with "
            "--model"
        ) from error
    for index in indexes:
        index.check_model(identity)
    return folder
