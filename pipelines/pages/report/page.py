"""Writes the report: one HTML file with its pictures inside, every text escaped."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from pipelines.pages.kit.html import encode_jpeg, make_environment, write_html
from pipelines.pages.report.charts import draw_curves
from pipelines.pages.report.view import Report


def write_report(report: Report, path: Path) -> None:
    """Write the page to `path`, whole or not at all."""
    environment = make_environment("pipelines.pages.report")
    environment.filters["picture"] = encode_picture
    page = environment.get_template("report.html").render(
        report=report,
        validation=Markup(
            draw_curves(report.validation, title="Validation rSum", ylabel="rSum (of 600)")
        ),
        losses=Markup(draw_curves(report.losses, title="Training loss", ylabel="loss")),
    )
    write_html(path, page)


def encode_picture(image: Path) -> str:
    """A JPEG file as a data URI."""
    return encode_jpeg(image.read_bytes())
