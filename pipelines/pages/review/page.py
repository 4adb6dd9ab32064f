"""Writes the review as one HTML file: pictures, style and script inside, every text escaped."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from pipelines.pages.kit.html import (
    encode_jpeg,
    make_environment,
    read_part,
    write_html,
    write_policy,
)
from pipelines.pages.review.histograms import HEIGHT, WIDTH
from pipelines.pages.review.rows import SEVERITIES
from pipelines.pages.review.view import SORTS, Review, Thumbnail

PACKAGE = "pipelines.pages.review"
_TONES = {1: "grave", 2: "warn"}


def write_page(review: Review, path: Path) -> None:
    """Write the page to `path`, whole or not at all. OSError if that cannot be."""
    environment = make_environment(PACKAGE)
    environment.filters |= {"picture": encode_picture, "tone": choose_tone}
    style, script = (read_part(PACKAGE, name) for name in ("page.css", "page.js"))
    page = environment.get_template("page.html").render(
        review=review,
        style=Markup(style),
        script=Markup(script),
        policy=write_policy(style=style, script=script),
        sorts={k: label for k, label in SORTS.items() if k != "score" or review.scored},
        chart=(WIDTH, HEIGHT),
    )
    write_html(path, page)


def encode_picture(thumbnail: Thumbnail) -> str:
    """A thumbnail as a data URI."""
    return encode_jpeg(thumbnail.content)


def choose_tone(flag: str) -> str:
    """How grave a flag looks: grave, warn or mild."""
    return _TONES.get(SEVERITIES.get(flag, 0), "mild")
