"""Every static page in a browser: it fits a phone and a desk, and axe-core finds no fault in it."""

from itertools import pairwise
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


_CONTROLS = "a[href], button, input, select, summary, [tabindex='0']"
# Top and bottom of what Tab should visit, before anything is scrolled.
_PLACES = """controls => [...document.querySelectorAll(controls)]
    .filter(one => one.checkVisibility())
    .map(one => one.getBoundingClientRect())
    .map(box => [box.top, box.bottom])"""
# What has the focus: its place among them, and whether it is in view and marked.
_FOCUS = """controls => {
    const focused = document.activeElement;
    if (focused === document.body) return null;
    const visible = [...document.querySelectorAll(controls)].filter(one => one.checkVisibility());
    const style = getComputedStyle(focused), box = focused.getBoundingClientRect();
    return {
        place: visible.indexOf(focused),
        marked: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
        seen: box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight,
    };
}"""


@pytest.mark.parametrize("name", PAGES)
def test_tab_visits_the_controls_in_reading_order(
    name: str, pages: dict[str, Path], browser: "Browser"
) -> None:
    page = browser.new_page(viewport={"width": 900, "height": 900})
    page.set_default_timeout(1000 * HANG_SECONDS)
    page.goto(pages[name].as_uri())
    places = page.evaluate(_PLACES, _CONTROLS)
    # At this width cards have one column. No control is wholly above the one before it.
    assert all(bottom > top for (top, _), (_, bottom) in pairwise(places))
    visited = []
    for _ in range(len(places) + 1):
        page.keyboard.press("Tab")
        found = page.evaluate(_FOCUS, _CONTROLS)
        if found is None or (visited and found["place"] == 0):
            break
        visited.append(found)
    # The browser's own comes after the last, so that nothing is a trap.
    assert [one["place"] for one in visited] == list(range(len(places)))
    assert all(one["marked"] and one["seen"] for one in visited)
    page.close()


def test_the_skip_link_leads_past_the_tools(pages: dict[str, Path], browser: "Browser") -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(1000 * HANG_SECONDS)
    page.goto(pages["review"].as_uri())
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "rows"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('article') !== null")
    page.close()
