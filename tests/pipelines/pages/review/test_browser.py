"""The review's page in a real browser: filters, search, sort, keys, and that nothing else runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.captioned import (
    DENSE_TEXT,
    error_row,
    review,
    text_row,
    write_example,
    write_hostile,
    write_photo,
    write_run,
)
from tests.waiting import HANG_SECONDS

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
# Of the text and of what is behind it: the sum of red, green and blue.
BRIGHTNESS = (
    "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name]"
    ".match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0))"
)
FILE_NAMES = "els => els.filter(el => el.checkVisibility()).map(el => el.textContent)"


class Reader:
    """A page of the browser, what it complained of, and how its rows are found."""

    def __init__(self, page: "playwright.Page") -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.set_default_timeout(1000 * HANG_SECONDS)

    def open(self, path: Path) -> None:
        self.page.goto(path.resolve().as_uri())

    def names(self) -> list[str]:
        """File names of the rows to be seen, in order."""
        names: list[str] = self.page.locator("article h3").evaluate_all(FILE_NAMES)
        return names

    def press(self, label: str) -> None:
        self.page.get_by_role("button", name=label, exact=True).click()

    def count(self) -> str:
        return self.page.locator("#count").inner_text()


@pytest.fixture
def reader(browser: "playwright.Browser") -> Iterator[Reader]:
    page = browser.new_page()
    reader = Reader(page)
    yield reader
    page.close()
    assert reader.complaints == []
    assert [url for url in reader.requests if not url.startswith(("file:", "data:"))] == []


@pytest.fixture
def example(tmp_path: Path, reader: Reader) -> Reader:
    run = write_example(tmp_path)
    assert review(run) == 0
    reader.open(run / "review.html")
    return reader


ALL = ["text.jpg", "huge.png", "loop.jpg", "cut.jpg", "good.jpg", "gone.jpg"]


def test_each_filter_shows_its_rows(example: Reader) -> None:
    assert example.names() == ALL and example.count() == "6 rows"
    for label, names in {
        "errors 2": ["text.jpg", "huge.png"],
        "decode_error 1": ["text.jpg"],
        "too_large 1": ["huge.png"],
        "loop 1": ["loop.jpg"],
        "truncated 1": ["cut.jpg"],
        "second attempt 1": ["cut.jpg"],
        "trimmed 1": ["cut.jpg"],
        "no flag 2": ["good.jpg", "gone.jpg"],
        "all 6": ALL,
    }.items():
        example.press(label)
        assert example.names() == names
        pressed = example.page.locator(".filter[aria-pressed=true]")
        assert pressed.all_inner_texts() == [label]
    assert example.page.locator(".filter").count() == 9


def test_search_finds_text_names_reasons_and_human_captions(example: Reader) -> None:
    search = example.page.get_by_role("searchbox", name="Search")
    for words, names in {
        "RED hat": ["loop.jpg"],
        "gone": ["gone.jpg"],
        "known format": ["text.jpg"],
        "<b>kids": ["good.jpg"],
        "dog fence": ["good.jpg", "gone.jpg"],
        "  ": ALL,
    }.items():
        search.fill(words)
        assert example.names() == names
    assert example.count() == "6 rows"
    search.fill("kids")
    assert example.page.get_by_text("a dog & <b>kids</b>").is_visible()
    marked = "[...CSS.highlights.get('hit')].map(String)"
    assert example.page.evaluate(marked) == ["kids"]
    example.page.get_by_role("combobox", name="Sort").select_option(label="shortest first")
    assert example.page.evaluate(marked) == ["kids"] and example.names() == ["good.jpg"]


def test_filter_and_search_together_and_the_empty_result(example: Reader) -> None:
    search = example.page.get_by_role("searchbox", name="Search")
    nothing = example.page.locator("#nothing")
    search.fill("dog")
    example.press("truncated 1")
    assert example.names() == ["cut.jpg"] and example.count() == "1 of 6 rows"
    assert not nothing.is_visible()
    search.fill("elephant")
    assert example.names() == [] and nothing.is_visible() and example.count() == "0 of 6 rows"
    example.press("Show all rows")
    assert example.names() == ALL and not nothing.is_visible() and search.input_value() == ""


def test_sort(tmp_path: Path, reader: Reader) -> None:
    texts = {"a.jpg": "One dog.", "b.jpg": DENSE_TEXT, "c.jpg": "The man sits here now. " * 3}
    for name in texts:
        write_photo(tmp_path / "photos" / name)
    rows = [text_row(name, text) for name, text in texts.items()]
    rows.append({**text_row("d.jpg", ""), "caption_words": None, "repetition": None})
    run = tmp_path / "run"
    write_run(run, rows, images=tmp_path / "photos")
    assert review(run, "--sort", "plan") == 0
    reader.open(run / "review.html")
    assert reader.names() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    for label, names in {
        "longest first": ["b.jpg", "c.jpg", "a.jpg", "d.jpg"],
        "shortest first": ["a.jpg", "c.jpg", "b.jpg", "d.jpg"],
        "most repetition first": ["c.jpg", "a.jpg", "b.jpg", "d.jpg"],
        "worst first": ["c.jpg", "d.jpg", "a.jpg", "b.jpg"],
        "in the plan's order": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
    }.items():
        reader.page.get_by_role("combobox", name="Sort").select_option(label=label)
        assert reader.names() == names, label
    assert reader.page.get_by_role("option").count() == 5


def test_keys(example: Reader) -> None:
    keyboard = example.page.keyboard
    keyboard.press("/")
    keyboard.type("hat/")
    search = example.page.get_by_role("searchbox", name="Search")
    assert search.input_value() == "hat/" and example.names() == []
    keyboard.press("Escape")
    assert search.input_value() == "" and example.names() == ALL
    example.page.get_by_role("button", name="loop 1").focus()
    keyboard.press("Space")
    assert example.names() == ["loop.jpg"]


def test_pictures_are_seen(example: Reader) -> None:
    images = example.page.locator("article img")
    images.last.scroll_into_view_if_needed()
    sizes = images.evaluate_all(
        "els => Promise.all(els.map(el => el.decode().then(() => el.naturalWidth)))"
    )
    assert sizes == [60, 60, 60]


def test_nothing_hostile_runs(tmp_path: Path, reader: Reader) -> None:
    run = write_hostile(tmp_path)
    assert review(run) == 0
    reader.open(run / "review.html")
    assert len(reader.names()) == 3
    assert reader.page.evaluate("window.pwned") is None
    assert reader.page.locator("article img").count() == 1
    for button in reader.page.locator(".filter").all():
        button.click()
        assert reader.names()
    reader.page.get_by_role("searchbox", name="Search").fill("</script><script>")
    assert reader.page.evaluate("window.pwned") is None


def test_the_policy_stops_a_foreign_script(example: Reader) -> None:
    example.page.evaluate(
        "() => { const node = document.createElement('script');"
        "node.textContent = 'window.pwned = 1'; document.body.append(node); }"
    )
    assert example.page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in text for text in example.complaints)
    example.complaints.clear()


def test_it_is_read_without_javascript(tmp_path: Path, browser: "playwright.Browser") -> None:
    run = write_example(tmp_path)
    assert review(run) == 0
    page = browser.new_page(java_script_enabled=False)
    page.set_default_timeout(1000 * HANG_SECONDS)
    page.goto((run / "review.html").as_uri())
    assert page.get_by_text(DENSE_TEXT, exact=True).is_visible()
    assert not page.locator("#tools").is_visible() and not page.locator("#nothing").is_visible()
    page.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_the_window_and_can_be_read(
    tmp_path: Path, browser: "playwright.Browser", dark: bool, width: int
) -> None:
    # Long names without a space are what makes a page too wide.
    write_photo(tmp_path / f"{'n' * 200}.jpg", size=(400, 20))
    rows = [text_row(f"{'n' * 200}.jpg", "w" * 300, captions=["c" * 300])]
    write_run(tmp_path / "run", [*rows, error_row("e" * 200, "r" * 300)], images=tmp_path)
    assert review(tmp_path / "run") == 0
    page = browser.new_page(
        color_scheme="dark" if dark else "light", viewport={"width": width, "height": 800}
    )
    page.set_default_timeout(1000 * HANG_SECONDS)
    page.goto((tmp_path / "run" / "review.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, back = page.evaluate(BRIGHTNESS)
    assert ink - back > 400 if dark else back - ink > 400
    page.close()
