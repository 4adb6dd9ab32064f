"""Writes the page of failing queries as one HTML file, in the style of the review."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from pipelines.contact.page import PACKAGE as REVIEW
from pipelines.contact.page import encode_picture
from pipelines.errors.records import ErrorPage
from pipelines.standalone import make_environment, read_part, write_html, write_policy

PACKAGE = "pipelines.errors"


def write_errors(page: ErrorPage, path: Path) -> None:
    """Write the page to `path`, whole or not at all. OSError if that cannot be."""
    environment = make_environment(PACKAGE)
    environment.filters["picture"] = encode_picture
    style = read_part(REVIEW, "page.css") + read_part(PACKAGE, "errors.css")
    text = environment.get_template("errors.html").render(
        page=page, style=Markup(style), policy=write_policy(style=style)
    )
    write_html(path, text)
