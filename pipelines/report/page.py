"""Writes the report: one HTML file with its pictures inside, every text escaped."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data.atomic import replace_whole
from pipelines.report.charts import draw_curves
from pipelines.report.records import Report


def write_report(report: Report, path: Path) -> None:
    """Write the page to `path`, whole or not at all."""
    environment = Environment(
        loader=PackageLoader("pipelines.report", "."),
        autoescape=True,  # captions and file names are not ours to trust
        undefined=StrictUndefined,
    )
    environment.filters["picture"] = encode_picture
    page = environment.get_template("report.html").render(
        report=report,
        validation=Markup(
            draw_curves(report.validation, title="Validation rSum", ylabel="rSum (of 600)")
        ),
        losses=Markup(draw_curves(report.losses, title="Training loss", ylabel="loss")),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def encode_picture(image: Path) -> str:
    """A JPEG file as a data URI, so that the page is one file that can be sent around."""
    return "data:image/jpeg;base64," + base64.b64encode(image.read_bytes()).decode("ascii")
