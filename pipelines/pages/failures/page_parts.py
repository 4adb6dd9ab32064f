"""Writes the page of failing queries as one HTML file, in the style of the review."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from pipelines.pages.failures.view import ErrorPage
from pipelines.pages.kit.html import make_environment, read_part, write_html, write_policy
from pipelines.pages.review.page import PACKAGE as REVIEW
from pipelines.pages.review.page import encode_picture

PACKAGE = "pipelines.pages.failures"


def write_errors(page: ErrorPage, path: Path) -> None:
    """Write the page to `path`, whole or not at all. OSError if that cannot be."""
    environment = make_environment(PACKAGE)
    environment.filters["picture"] = encode_picture
    style = read_part(REVIEW, "page.css") + read_part(PACKAGE, "errors.css")
    text = environment.get_template("errors.html").render(
        page=page, style=Markup(style), policy=write_policy(style=style)
    )
    write_html(path, text)
