"""The site that `make docs` builds: strict, whole, and asking no other host for anything."""

import functools
import http.server
import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.documents import DOCUMENTS, ROOT
from tests.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# What a browser fetches by itself; `href` of an <a> is followed by a reader alone.
FETCHED = {"src", "srcset", "data", "poster", "action"}


def build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", "site", *options],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, "--site-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


class Assets(HTMLParser):
    """What a page fetches: addresses of pictures, scripts, styles, fonts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in FETCHED or (name == "href" and tag == "link"):
                self.found.append(value or "")


def test_every_document_is_a_page(site: Path) -> None:
    for document in DOCUMENTS:
        inside = document.relative_to(ROOT)
        if inside.parts[0] == "docs":
            page = site / inside.relative_to("docs")
        else:
            page = site / ("index" if inside.name == "README.md" else f"project/{inside}")
        assert page.with_suffix(".html").is_file(), inside
    assert not list(site.rglob("*.py"))
    # The notebook as a page and as a file.
    page = (site / "walkthrough.html").read_text()
    assert "The whole way" in page and "published" in page and "%%" not in page
    assert 'href="walkthrough.ipynb"' in page
    assert (site / "walkthrough.ipynb").is_file()


def test_pages_fetch_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assets = Assets(page.read_text()).found
        assert assets and [a for a in assets if re.match(r"(\w+:)?//", a)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text()), style


def test_the_reference_shows_what_its_page_names(site: Path) -> None:
    names = re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    page = (site / "api.html").read_text()
    assert {"vse.load", "vse.embedders.embedder.Embedder", "captioner.run.session.caption"} <= set(
        names
    )
    for name in names:
        assert f'id="{name}"' in page, name
        if name.startswith("vse.evaluation."):
            for function in public_functions(name):
                assert f'id="{name}.{function}"' in page, f"{name}.{function}"
    # Docstrings too, and arguments from them.
    assert "Load a trained model" in page and "Parameters:" in page
    assert "caption_tokens" in page


def public_functions(name: str) -> list[str]:
    module = importlib.import_module(name)
    mine = [value for value in vars(module).values() if getattr(value, "__module__", "") == name]
    return [value.__name__ for value in mine if not value.__name__.startswith("_")]


def test_the_reference_names_every_module_of_evaluation() -> None:
    """Those with anything in them for whoever imports them."""
    names = re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    there = {f"vse.evaluation.{path.stem}" for path in (ROOT / "vse/evaluation").glob("[a-z]*.py")}
    assert {name for name in names if name.startswith("vse.evaluation.")} == there


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository of few pages, with our hooks."""
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        (tmp_path / name).write_text(f"# {name}\n")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/hooks.py", tmp_path / "docs")
    (tmp_path / "mkdocs.yml").write_text(
        "site_name: x\nhooks: [docs/hooks.py]\nexclude_docs: '*.py'\nuse_directory_urls: false\n"
        "validation: {links: {anchors: warn}}\n"
    )
    (tmp_path / "LICENSE").write_text("As you like.\n")
    (tmp_path / "docs/a.md").write_text(
        "# A\n\n[README](../README.md) [licence](../LICENSE) [b](b.md#b) `[no link](none.md)`\n"
    )
    (tmp_path / "docs/b.md").write_text("# B\n\n    [no link](none.md)\n")
    return tmp_path


def test_links_are_turned_to_where_files_lie(project: Path) -> None:
    (project / "README.md").write_text("# d2s\n\n[a](docs/a.md) [changes](CHANGELOG.md)\n")
    done = build(project)
    assert done.returncode == 0, done.stderr
    first, page = (project / "site" / name for name in ("index.html", "a.html"))
    assert 'href="a.html"' in first.read_text()
    assert 'href="project/CHANGELOG.html"' in first.read_text()
    for link in ("index.html", "project/LICENSE", "b.html#b"):
        assert f'href="{link}"' in page.read_text()
    assert (project / "site/project/LICENSE").read_text() == "As you like.\n"


BROKEN = {
    "[x](../none.txt)": "docs/b.md: '../none.txt' is no file of the repository",
    "[x](../../outside.md)": "docs/b.md: '../../outside.md' is no file",
    "[x](a.md#none)": "does not contain an anchor '#none'",
    "[x](http://example.org/)": "'http://example.org/' is not well-formed",
    "[x](https://example)": "'example' is no host",
    "[x](//example.org/)": "'//example.org/' is not well-formed",
}


def test_each_broken_link_fails(project: Path) -> None:
    (project / "docs/b.md").write_text("# B\n\n" + "\n\n".join(BROKEN) + "\n")
    done = build(project)
    assert done.returncode != 0
    # A strict build fails with any one warning.
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    for said in BROKEN.values():
        assert any(said in line for line in warnings), said


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The site at a server of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_a_browser_asks_nobody_else_and_finds_what_is_searched(
    browser: "Browser", address: str
) -> None:
    asked: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(1000 * HANG_SECONDS)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    box = page.get_by_role("textbox", name="Search")
    box.click()
    # What is typed before the index is there is not heard.
    page.get_by_text("Type to start searching").wait_for()
    box.press_sequentially("distillation")
    found = page.locator(".md-search-result__link").first
    found.wait_for()
    assert "html" in (found.get_attribute("href") or "")
    page.close()
    others = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert len(asked) > 3 and others == []
