"""Search results as plain records, and the model with which queries must be embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError

if TYPE_CHECKING:
    from vse.embedders.embedder import Embedder
    from vse.runs.models import ModelIdentity
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
        """The name shown to the user."""
        return self.file_name or self.id

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        values = asdict(self)
        del values["locator"]
        return {**values, "score": round(self.score, 6)}


@dataclass(frozen=True)
class QueryHits:
    """A query (a text or an image file) and its hits, best first."""

    text: str | None
    image: Path | None
    hits: tuple[Hit, ...]

    @property
    def query(self) -> str:
        """The query as shown to the user."""
        return f'"{self.text}"' if self.text is not None else str(self.image)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        query = {"text": self.text} if self.text is not None else {"image": str(self.image)}
        return {"query": query, "hits": [hit.to_dict() for hit in self.hits]}


def gather_hits(index: Index, hits: NearestRows, number: int) -> tuple[Hit, ...]:
    """The hits of one query with their rows in the index."""
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
    """The folder of the model that created all indexes, with which queries must be embedded.

    Args:
        model: its current location, if it differs from the recorded one.

    Raises:
        UserError: it is not on this machine, or an index is empty or was created with another
            model.
    """
    return _find_identified(indexes, model)[0]


def load_indexed_model(
    indexes: Sequence[Index], model: str | None, *, device: str | None = None
) -> Embedder:
    """Load that model, to compute as the first index was; errors as for `find_indexed_model`."""
    from vse.embedders.embedder import load_identified

    folder, identity = _find_identified(indexes, model)
    return load_identified(folder, identity, device=device, dtype=indexes[0].info.precision)


def _find_identified(indexes: Sequence[Index], model: str | None) -> tuple[Path, ModelIdentity]:
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
            f"{indexes[0].path} was made by the model {name}: {error}; if it is elsewhere now, "
            "specify it with --model"
        ) from error
    for index in indexes:
        index.check_model(identity)
    return folder, identity
