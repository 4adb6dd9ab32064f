"""Results as HTML for the page. All text is escaped; pictures are embedded."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment

from data.escaping import show_name
from pipelines.pages.kit.html import make_environment, read_part
from pipelines.search_app.collection import Collection, IndexHits, Query, TextComparison

PACKAGE = "pipelines.search_app"


def render_head(collection: Collection, *, title: str) -> str:
    """The header: what is searched."""
    return _render(
        "head.html",
        title=title,
        indexes=list(zip(collection.titles, collection.indexes, strict=True)),
        px=collection.embedder.px,
    )


def render_answer(query: Query, sections: tuple[IndexHits, ...]) -> str:
    """The hits in each index. A hit is a button whose `data-place` has its index and row."""
    return _render("answer.html", query=query, sections=sections)


def render_comparison(comparison: TextComparison) -> str:
    """Dense text and sparse captions of one image, side by side."""
    return _render("comparison.html", of=comparison)


def render_message(message: str) -> str:
    """An error message for the user."""
    return _render("message.html", message=message)


def render_hint() -> str:
    """A hint about what to do with the results."""
    return _render("hint.html")


def read_style() -> str:
    """The page's CSS."""
    return read_part(PACKAGE, "page.css")


def _render(template: str, **values: object) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = make_environment(PACKAGE)
    environment.filters |= {"name": show_name, "score": _format_score}
    return environment


def _format_score(score: float | None) -> str:
    return "—" if score is None else f"{score:.4f}"
