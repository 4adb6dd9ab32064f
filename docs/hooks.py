"""Hooks of MkDocs: one set of pages, read on GitHub where they lie and in the site built of them.

README.md is the site's first page; what the pages link to outside docs/ comes along under project/;
links are turned to where a file lies in the site. A link to a file that the repository does not
have, and an address that is none, are warnings, and `make docs` fails with them. A notebook is a
page too, of its texts and its code.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Pages outside docs/ that are in the navigation, whether a page links to them or not.
PROJECT_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
# A link's target, unless it stands in code, which is matched first.
LINK = re.compile(
    r"^```[\s\S]*?^```$|^    .*$|`[^`\n]+`|(?<=\]\()(?P<target>[^)\s]+)(?=\))", re.MULTILINE
)
LOG = logging.getLogger("mkdocs.hooks")


def to_site(path: str) -> str:
    """Where a file of the repository lies in the site."""
    if path == "README.md":
        return "index.md"
    inner = PurePosixPath(path)
    return str(inner.relative_to("docs")) if inner.parts[0] == "docs" else f"project/{path}"


def to_repository(uri: str) -> str:
    """Where a page of the site lies in the repository."""
    if uri == "index.md":
        return "README.md"
    return uri.removeprefix("project/") if uri.startswith("project/") else f"docs/{uri}"


def find_links(text: str) -> Iterator[str]:
    """The targets of a page's links and pictures, those in code left out."""
    yield from (found["target"] for found in LINK.finditer(text) if found["target"])


def is_address(link: str) -> bool:
    """Whether a link leads to another host (or would, if it were written well)."""
    return "://" in link or link.startswith(("//", "mailto:"))


def tell_fault(link: str) -> str | None:
    """What is wrong with an address, if anything is."""
    parts = urlsplit(link)
    if parts.scheme != "https":
        return "it does not begin with https://"
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc):
        return f"'{parts.netloc}' is no host"
    return None


def resolve(link: str, page: str) -> str:
    """The repository's file that a link of `page` names."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link.partition("#")[0]))


def write_page(notebook: dict[str, Any], name: str) -> str:
    """The Markdown of a notebook: its texts, and its code as it would be typed."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
        else:
            shell = text.startswith("%%bash -e\n")
            code = text.removeprefix("%%bash -e\n")
            parts.append(f"```{'bash' if shell else 'python'}\n{code}\n```")
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\nThis page as a notebook: [{name}]({name}).\n{rest}\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring in what lies outside docs/: the project's pages, and files that any page links to."""
    for notebook in sorted((ROOT / "docs").glob("*.ipynb")):
        text = write_page(json.loads(notebook.read_text(encoding="utf-8")), notebook.name)
        files.append(File.generated(config, f"{notebook.stem}.md", content=text))
    pages = [file for file in files.documentation_pages() if file.generated_by is None]
    waiting = [*PROJECT_PAGES, *(f"docs/{file.src_uri}" for file in pages)]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        source, uri = ROOT / path, to_site(path)
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(source)))
        if source.suffix != ".md":
            continue
        for link in find_links(source.read_text(encoding="utf-8")):
            target = resolve(link, path)
            here = not is_address(link) and not link.startswith("#") and (ROOT / target).is_file()
            if here and target not in seen:
                seen.add(target)
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page to where their files lie in the site."""
    uri = page.file.src_uri
    path = to_repository(uri)

    def turn(found: re.Match[str]) -> str:
        link = found["target"]
        if not link or link.startswith("#"):
            return found[0]
        if is_address(link):
            if fault := tell_fault(link):
                LOG.warning("%s: the address '%s' is not well-formed: %s", path, link, fault)
            return link
        target = resolve(link, path)
        if not (ROOT / target).is_file():
            LOG.warning("%s: '%s' is no file of the repository", path, link)
            return link
        anchor = "".join(link.partition("#")[1:])
        return posixpath.relpath(to_site(target), posixpath.dirname(uri) or ".") + anchor

    return LINK.sub(turn, markdown)
