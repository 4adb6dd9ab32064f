"""Writes search results as one HTML file: pictures and style inside, all text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.escaping import show_name
from data.images import read_file
from pipelines.pages.kit.html import render_page
from pipelines.pages.kit.thumbnails import (
    Address,
    Picture,
    Thumbnail,
    ThumbnailBudget,
    load_thumbnail,
)
from pipelines.pages.search.images import IndexedImages
from vse.search.results import Hit, QueryHits

if TYPE_CHECKING:
    from vse.search.index import Index


@dataclass(frozen=True)
class PageHit:
    """A hit on the page."""

    rank: int
    score: float
    picture: Picture
    text: str | None


@dataclass(frozen=True)
class PageQuery:
    """A query on the page, with its picture if it is an image."""

    query: str
    picture: Thumbnail | None
    hits: tuple[PageHit, ...]


def write_hits(
    index: Index, answers: Sequence[QueryHits], path: Path, *, images: Path | None
) -> None:
    """Write the page to `path` atomically.

    Args:
        images: the current folder of the index's images; by default the recorded one.
    """
    render_page(
        "pipelines.pages.search",
        path,
        answers=_show(index, answers, images),
        pictured=index.info.kind == "images",
        index=show_name(str(index.path)),
        kind=index.info.kind,
        rows=len(index),
        model=show_name(index.info.model),
        px=index.info.px,
    )


def _show(index: Index, answers: Sequence[QueryHits], images: Path | None) -> list[PageQuery]:
    pictured, budget = index.info.kind == "images", ThumbnailBudget()
    reader = IndexedImages(index, images=images) if pictured else None
    shown = [
        PageQuery(
            show_name(answer.query),
            load_thumbnail(read_file(answer.image)) if answer.image is not None else None,
            tuple(_show_hit(hit, reader, budget) for hit in answer.hits),
        )
        for answer in answers
    ]
    if reader is not None:
        reader.close()
    return shown


def _show_hit(hit: Hit, reader: IndexedImages | None, budget: ThumbnailBudget) -> PageHit:
    picture = Picture(show_name(hit.name), None)
    if reader is not None:
        address = Address(hit.name, hit.locator)
        picture = budget.show(hit.name, address, partial(reader.read, address))
    return PageHit(hit.rank, hit.score, picture, hit.text)
