"""Every static page in a browser: it fits a phone and a desk, and axe-core finds no fault in it."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.cli import run
from pipelines.pages.report.page import write_report
from tests.accessibility import find_faults
from tests.pipelines.captioned import write_example
from tests.pipelines.evaluated import write_trained
from tests.pipelines.pages.report.test_page import make_report
from tests.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGES = ("review", "failures", "hits", "report")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in PAGES}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_trained(folder)
        assert run(["evaluate", "--failures", "failures.html"]) == 0
        assert run(["embed", "--images", "world", "--out", "i.parquet"]) == 0
        assert run(["search", "--index", "i.parquet", "a red square", "--html", "hits.html"]) == 0
        shown = write_example(folder / "shown")
        assert run(["review", str(shown), "--out", "review.html"]) == 0
        write_report(make_report(folder), found["report"])
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_is_accessible(
    name: str, width: int, scheme: str, pages: dict[str, Path], browser: "Browser"
) -> None:
    # axe-core is a script that the policy of our pages would stop.
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page.set_default_timeout(1000 * HANG_SECONDS)
    page.goto(pages[name].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_role("main").count() == page.locator("h1").count() == 1
    assert find_faults(page) == []
    page.close()
