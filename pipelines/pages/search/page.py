"""Writes what a search found as one HTML file: pictures and style inside, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from data.dense.run import find_source
from data.errors import UserError
from data.images import ImageError, read_file
from data.sources.reader import ImageReader
from pipelines.pages.kit.html import make_environment, read_part, write_html, write_policy
from pipelines.pages.kit.thumbnails import Address, load_thumbnail, read_picture
from pipelines.pages.review.facts import show_name
from pipelines.pages.review.page import PACKAGE as REVIEW
from pipelines.pages.review.page import encode_picture
from pipelines.pages.review.view import Thumbnail
from vse.search.results import Hit, QueryHits

if TYPE_CHECKING:
    from vse.search.index import Index

PACKAGE = "pipelines.pages.search"


@dataclass(frozen=True)
class ShownHit:
    """A hit on the page; where it has no picture, `missing` says why."""

    rank: int
    score: float
    name: str
    text: str | None
    picture: Thumbnail | None
    missing: str | None


@dataclass(frozen=True)
class ShownAnswer:
    """A query on the page, with the picture that was asked for, if it was one."""

    asked: str
    picture: Thumbnail | None
    hits: tuple[ShownHit, ...]


def write_hits(
    index: Index, answers: Sequence[QueryHits], path: Path, *, pictures: Path | None
) -> None:
    """Write the page to `path`, whole or not at all.

    Args:
        pictures: the folder where the index's images are now; by default as it recorded them.

    Raises:
        UserError: it cannot be written.
    """
    environment = make_environment(PACKAGE)
    environment.filters["picture"] = encode_picture
    style = "\n".join(read_part(package, "page.css") for package in (REVIEW, PACKAGE))
    page = environment.get_template("page.html").render(
        answers=_show(index, answers, pictures),
        pictured=index.info.kind == "images",
        index=show_name(str(index.path)),
        kind=index.info.kind,
        rows=len(index),
        model=show_name(index.info.model),
        px=index.info.px,
        style=Markup(style),
        policy=write_policy(style=style),
    )
    try:
        write_html(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _show(index: Index, answers: Sequence[QueryHits], pictures: Path | None) -> list[ShownAnswer]:
    source = index.info.source
    reader = None
    if source:
        reader = ImageReader(find_source({"source": source}, where=index.path, images=pictures))
    shown = [
        ShownAnswer(
            show_name(answer.query),
            load_thumbnail(read_file(answer.image)) if answer.image is not None else None,
            tuple(_show_hit(hit, reader) for hit in answer.hits),
        )
        for answer in answers
    ]
    if reader is not None:
        reader.close()
    return shown


def _show_hit(hit: Hit, reader: ImageReader | None) -> ShownHit:
    picture, missing = None, None
    if reader is not None:
        try:
            picture = load_thumbnail(read_picture(reader, Address(hit.name, hit.locator)))
        except ImageError as error:
            missing = str(error)
    return ShownHit(hit.rank, hit.score, show_name(hit.name), hit.text, picture, missing)
