"""The report holds what it is given, escapes what it is told, and stands alone."""

import re
from pathlib import Path

import pytest
from PIL import Image

from pipelines.pages.report.page import write_report
from pipelines.pages.report.view import (
    Curve,
    Example,
    RankedImage,
    RankedQuery,
    Ranking,
    Report,
    Row,
    Sentence,
    Step,
)

HOSTILE = "<script>alert('x')</script> & \"quotes\""


@pytest.fixture()
def report(tmp_path: Path) -> Report:
    return make_report(tmp_path)


def make_report(folder: Path) -> Report:
    image = folder / "a b'<c>.jpg"
    Image.new("RGB", (8, 8), (200, 30, 30)).save(image)
    curve = Curve("dense to sparse", (10, 20), (100.0, 150.5))
    found = (RankedImage(image, 0.5, False), RankedImage(image, 0.4, True))
    return Report(
        rows=(
            Row("dense to sparse", "both stages", (20.0, 50.0, 60.0, 15.0, 40.0, 55.5), 240.5),
            Row("joint", "both in each step", (19.0, 49.0, 59.0, 14.0, 39.0, 50.0), 230.0),
            Row("sparse only", "captions alone", (10.0, 40.0, 50.0, 5.0, 30.0, 45.0), 180.0),
        ),
        oracle_t2i=72.3,
        oracle_i2t=99.7,
        facts={"facts_per_caption": 5.4, "facts_per_image": 25.9, "share_untold_by_five": 0.446},
        captioner={"true": 0.981, "told": 0.979},
        validation=(curve,),
        losses=(curve,),
        examples=(Example(image, (HOSTILE,), (Sentence("So.", True), Sentence(HOSTILE, False))),),
        queries=(
            RankedQuery(
                HOSTILE,
                (Ranking("dense to sparse", 2, found),),
            ),
        ),
        steps=(Step("stage 1", "d2s train --stage 1", 12.0),),
        machine="two cores",
    )


@pytest.fixture()
def page(report: Report, tmp_path: Path) -> str:
    write_report(report, tmp_path / "out" / "report.html")
    return (tmp_path / "out" / "report.html").read_text()


def test_figures_stand_on_the_page(page: str) -> None:
    for figure in ("240.5", "180.0", "+60.5", "98.1 %", "97.9 %", "72.3", "99.7", "45 %"):
        assert figure in page


def test_markup_in_captions_is_text(page: str) -> None:
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 3


def test_the_page_needs_nothing_else(page: str) -> None:
    sources = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    # And its policy allows nothing else: what a chart sets by `style` would not be applied.
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page.replace("&#39;", "'")
    assert page.count("<style>") == 1 and " style=" not in page
    assert page.count("<svg") == 2 and 'stroke="#0072b2"' in page


def test_false_sentences_and_own_images_are_marked(page: str) -> None:
    assert page.count('<span class="false">') == 1
    assert page.count('<figure class="own">') == 1


def test_the_better_row_is_marked(page: str) -> None:
    assert re.search(r'<tr class="best"><td>dense to sparse', page)


def test_the_same_report_gives_the_same_bytes(report: Report, tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        write_report(report, tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
