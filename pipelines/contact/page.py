"""Writes the review as one HTML file: pictures, style and script inside, every text escaped."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data.atomic import replace_whole
from pipelines.contact.histograms import HEIGHT, WIDTH
from pipelines.contact.records import SORTS, Review, Thumbnail
from pipelines.contact.rows import SEVERITIES

_TONES = {1: "grave", 2: "warn"}


def write_page(review: Review, path: Path) -> None:
    """Write the page to `path`, whole or not at all. OSError if that cannot be."""
    environment = Environment(
        loader=PackageLoader("pipelines.contact", "."),
        autoescape=True,  # captions, file names and run.json are not ours to trust
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"picture": encode_picture, "tone": choose_tone}
    style, script = (_read_part(environment, name) for name in ("page.css", "page.js"))
    page = environment.get_template("page.html").render(
        review=review,
        style=Markup(style),
        script=Markup(script),
        policy=write_policy(style=style, script=script),
        sorts={k: label for k, label in SORTS.items() if k != "score" or review.scored},
        chart=(WIDTH, HEIGHT),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(path) as temporary:
        # Half a character, from a path that is not UTF-8, can stand in run.json.
        temporary.write_bytes(page.encode("utf-8", "replace"))


def write_policy(*, style: str, script: str) -> str:
    """The Content-Security-Policy: this style, this script, data: pictures, and nothing else."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {_hash_source(style)}",
            f"script-src {_hash_source(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def encode_picture(thumbnail: Thumbnail) -> str:
    """A thumbnail as a data URI, so that the page is one file that can be sent around."""
    return "data:image/jpeg;base64," + base64.b64encode(thumbnail.content).decode("ascii")


def choose_tone(flag: str) -> str:
    """How grave a flag looks: grave, warn or mild."""
    return _TONES.get(SEVERITIES.get(flag, 0), "mild")


def _read_part(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _hash_source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"
