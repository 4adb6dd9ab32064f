"""The site that `make docs` builds: strict, whole, and asking no other host for anything."""

import functools
import http.server
import importlib
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


def build(sources: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does."""
    options = ["-c", "docs", "-W", "--keep-going", "-q"]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(site)],
        cwd=sources,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
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


def test_every_document_is_a_page_of_the_contents(site: Path) -> None:
    contents = (site / "README.html").read_text()
    for document in DOCUMENTS:
        page = document.relative_to(ROOT).with_suffix(".html")
        assert (site / page).is_file() and f'href="{page}"' in contents.replace('"#"', f'"{page}"')
    assert "README.html" in (site / "index.html").read_text()
    assert list(site.glob("_downloads/*/walkthrough.ipynb"))


def test_pages_fetch_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assets = Assets(page.read_text()).found
        assert assets or page.name == "index.html"
        assert [a for a in assets if re.match(r"(\w+:)?//", a)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text()), style


def test_the_reference_shows_what_its_page_names(site: Path) -> None:
    names = list_names()
    page = (site / "docs/api.html").read_text()
    assert {"vse.load", "vse.embedders.embedder.Embedder", "captioner.run.session.caption"} <= set(
        names
    )
    for name in names:
        assert f'id="{name}"' in page or f'id="module-{name}"' in page, name
        if name.startswith("vse.evaluation."):
            for function in public_functions(name):
                assert f'id="{name}.{function}"' in page, f"{name}.{function}"
    # Docstrings too, and arguments from them.
    assert "Load a trained model" in page and "Parameters" in page
    assert "caption_tokens" in page


def list_names() -> list[str]:
    """What the reference is made of."""
    page = (ROOT / "docs/api.md").read_text()
    return re.findall(r"^\.\. auto\w+:: (\S+)$", page, re.MULTILINE)


def public_functions(name: str) -> list[str]:
    module = importlib.import_module(name)
    mine = [value for value in vars(module).values() if getattr(value, "__module__", "") == name]
    return [value.__name__ for value in mine if not value.__name__.startswith("_")]


def test_the_reference_names_every_module_of_evaluation() -> None:
    """Those with anything in them for whoever imports them."""
    names = list_names()
    there = {f"vse.evaluation.{path.stem}" for path in (ROOT / "vse/evaluation").glob("[a-z]*.py")}
    assert {name for name in names if name.startswith("vse.evaluation.")} == there


BROKEN = {
    "[x](../none.txt)": "none.txt",
    "[x](none.md)": "none.md",
    "[x](a.md#none)": "none",
}


def test_each_broken_link_fails(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/conf.py", tmp_path / "docs")
    (tmp_path / "README.md").write_text("# d2s\n\n[a](docs/a.md)\n")
    (tmp_path / "docs/a.md").write_text("# A\n\n" + "\n\n".join(BROKEN) + "\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    # With -W any one warning fails.
    warnings = [line for line in done.stderr.splitlines() if "docs/a.md" in line]
    for said in BROKEN.values():
        assert any(said in line and "xref_missing" in line for line in warnings), done.stderr


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
    box = page.get_by_placeholder("Search")
    box.fill("distillation")
    box.press("Enter")
    found = page.locator("ul.search li a").first
    found.wait_for()
    assert "html" in (found.get_attribute("href") or "")
    page.close()
    others = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert len(asked) > 3 and others == []
