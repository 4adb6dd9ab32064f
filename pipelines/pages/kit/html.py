"""Self-contained HTML pages: pictures, style and script inside, all text escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, TemplateNotFound
from markupsafe import Markup

from data.files.atomic import replace_whole

KIT = "pipelines.pages.kit"


def render_page(
    package: str,
    path: Path,
    *,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **values: object,
) -> None:
    """Render a package's page.html with the kit's style and its own, and its script, if any.

    Written atomically. Raises OSError.
    """
    environment = make_environment(package)
    environment.filters |= filters or {}
    style = read_part(KIT, "style.css") + read_part(package, "page.css")
    script = read_part(package, "page.js")
    page = environment.get_template("page.html").render(
        style=Markup(style),
        script=Markup(script),
        policy=write_policy(style=style, script=script),
        **values,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(path) as temporary:
        # A name from a path that is not UTF-8 can contain lone surrogates.
        temporary.write_bytes(page.encode("utf-8", "replace"))


def make_environment(package: str) -> Environment:
    """Templates of a package and the kit; values are escaped, and unknown names fail."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(KIT, ".")]),
        autoescape=True,  # captions, file names and run.json are untrusted
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["jpeg"] = encode_jpeg
    return environment


def read_part(package: str, name: str) -> str:
    """The text of a file next to a package's templates, such as its style; empty if missing."""
    try:
        return PackageLoader(package, ".").get_source(Environment(), name)[0]
    except TemplateNotFound:
        return ""


def write_policy(*, style: str, script: str = "") -> str:
    """The Content-Security-Policy: only this style, this script, and data: pictures."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {_hash_source(style)}",
            "script-src " + (_hash_source(script) if script else "'none'"),
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def encode_jpeg(content: bytes) -> str:
    """A JPEG as a data URI, so that the page is one file that can be shared."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _hash_source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"
