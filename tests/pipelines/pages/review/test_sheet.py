"""The contact sheet: its pictures, its text, its size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.pages.review.build import build_review
from pipelines.pages.review.sheet import MAX_CELLS, wrap_text, write_sheet
from tests.pipelines.captioned import review


def test_the_sheet_shows_pictures_and_text(run: Path) -> None:
    assert review(run, "--sort", "plan", "--png", "sheet.png") == 0
    pixels = np.asarray(Image.open("sheet.png").convert("RGB")).astype(int)
    teal = (abs(pixels - (0, 128, 128)).sum(-1) < 12).sum()
    # Three photos of 60 x 40 pixels, not enlarged; the frames around them are grey.
    assert 0.95 * 3 * 2400 <= teal <= 1.05 * 3 * 2400
    assert (abs(pixels - (0x1C, 0x23, 0x30)).sum(-1) < 12).sum() > 500
    plain = build_review(run, images=None, flag=None, sort="plan", limit=1)
    many = replace(plain, entries=plain.entries * (MAX_CELLS + 5))
    assert write_sheet(many, Path("many.png")) == MAX_CELLS


def test_text_is_wrapped_to_the_cell() -> None:
    def lines(text: str, *, most: int = 9) -> list[str]:
        return wrap_text(text, width=10, most=most, measure=len)

    assert lines("one two three four") == ["one two", "three four"]
    assert lines("a\n\nb\tc") == ["a b c"]
    assert lines("abcdefghijklmnopqrstuvw xy") == ["abcdefghij", "klmnopqrst", "uvw xy"]
    assert lines("one two three four five six", most=2) == ["one two", "three fou…"]
    assert lines("") == []
