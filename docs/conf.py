"""The site of the documents, which `make docs` builds: Sphinx with MyST and Furo.

The sources are the repository's own Markdown files, at their places, so that their links work on
GitHub and in the site alike. README.md is the first page; the table of contents stands here.
No page asks another host for anything.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "d2s"
copyright = "the maintainers of d2s"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "captioner/models/**.md", "tests/golden/README.md"]

html_theme = "furo"
html_title = "d2s"
html_copy_source = False
html_show_sphinx = False

# Anchors are GitHub's, so that a link works in both places.
myst_heading_anchors = 6
suppress_warnings = ["myst.header"]
# A prompt and what a command prints are not copied.
copybutton_prompt_text = "$ "

# Docstrings have code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False

CONTENTS = {
    "Start": ("quickstart", "install"),
    "Dense text": (
        "captioning",
        "texts",
        "serving",
        "batch",
        "quality",
        "exchange",
        "/captioner/models/llava-scenes/README",
    ),
    "Training": ("training", "towers", "settings", "reproduce"),
    "Use": ("evaluation", "library", "publishing"),
    "Background": ("method", "released", "peers", "design", "/tests/golden/README"),
    "Performance": tuple(f"benchmarks/{p.stem}" for p in sorted(ROOT.glob("docs/benchmarks/*.md"))),
    "Experiments": tuple(
        f"experiments/{p.stem}" for p in sorted(ROOT.glob("docs/experiments/*.md"))
    ),
    "Reference": ("api", "json", "log", "/CHANGELOG", "/CONTRIBUTING", "/AGENTS", "/SECURITY"),
}


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """The table of contents, which GitHub's page of README.md must not show."""
    if name == root_doc:
        for title, pages in CONTENTS.items():
            places = "\n".join(page if page[0] == "/" else f"docs/{page}" for page in pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{places}\n```\n"


def redirect_index(app: Sphinx, error: Exception | None) -> None:
    """index.html, which servers look for, leads to the first page."""
    if error is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    app.connect("build-finished", redirect_index)
