"""HTML pages that are one file: pictures, style and script inside, every text escaped."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from data.files.atomic import replace_whole


def make_environment(package: str) -> Environment:
    """Templates of a package; what goes into them is escaped, and an unknown name is an error."""
    return Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,  # captions, file names and run.json are not ours to trust
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def read_part(package: str, name: str) -> str:
    """The text of a file beside a package's templates, such as its style."""
    environment = make_environment(package)
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def write_html(path: Path, page: str) -> None:
    """Write the page to `path`, whole or not at all. OSError if that cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(path) as temporary:
        # Half a character, from a path that is not UTF-8, can stand in a name.
        temporary.write_bytes(page.encode("utf-8", "replace"))


def write_policy(*, style: str, script: str = "") -> str:
    """The Content-Security-Policy: this style, this script, data: pictures, and nothing else."""
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
    """A JPEG as a data URI, so that the page is one file that can be sent around."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _hash_source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"
