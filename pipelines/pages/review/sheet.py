"""The review as one picture: a contact sheet, drawn with Pillow."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from data.escaping import show_name
from data.files.atomic import replace_whole
from pipelines.pages.kit import SHEET_MARK
from pipelines.pages.review.view import SORTS, Review, ReviewRow

# Higher sheets are scaled down by most viewers until their text cannot be read.
MAX_CELLS = 36
_COLUMNS = 6
_CELL, _PICTURE, _MARGIN, _GAP = 320, 230, 32, 24
_TEXT_LINES, _NAME_LINES = 11, 2
_INK, _SOFT, _PAGE, _BACK, _FAIL = "#1c2330", "#586274", "#ffffff", "#eef1f5", "#b3261e"
_FONTS = {
    "title": ("DejaVuSans-Bold.ttf", 28),
    "bold": ("DejaVuSans-Bold.ttf", 14),
    "text": ("DejaVuSans.ttf", 14),
}
# More letters than fit on one line, even of the narrowest.
_LONGEST_LINE = 300

Font = ImageFont.FreeTypeFont
Fonts = dict[str, Font]


def write_sheet(review: Review, path: Path) -> int:
    """Draw the first MAX_CELLS entries to a PNG, atomically; returns their number.

    Raises:
        OSError: the file cannot be written.
    """
    entries = review.entries[:MAX_CELLS]
    fonts = _load_fonts()
    columns = min(_COLUMNS, len(entries))
    rows = [entries[start : start + columns] for start in range(0, len(entries), columns)]
    cells = [[_lay_out(entry, fonts) for entry in row] for row in rows]
    heights = [max(cell.height for cell in row) for row in cells]
    top = _MARGIN + 80
    # Wide enough for the title, even with few pictures.
    width = 2 * _MARGIN + max(columns, 2) * (_CELL + _GAP) - _GAP
    sheet = Image.new("RGB", (width, top + sum(heights) + _GAP * len(heights) + _MARGIN), _PAGE)
    _draw_title(sheet, review, len(entries), fonts)
    for row, height in zip(cells, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_MARGIN + column * (_CELL + _GAP), top))
        top += height + _GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    about = PngInfo()
    name, value = SHEET_MARK.decode().split("\0")
    about.add_text(name, value)
    with replace_whole(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True, pnginfo=about)
    return len(entries)


def wrap_text(text: str, *, width: float, most: int, measure: Callable[[str], float]) -> list[str]:
    """At most `most` lines of at most `width`; an ellipsis marks a text that is cut.

    Whitespace is collapsed, and words that are too wide are broken.
    """
    lines = [""]
    # Text far beyond the last line need not be measured.
    for word in show_name(" ".join(text.split())[: most * _LONGEST_LINE]).split(" "):
        for piece in _break_word(word, width, measure):
            joined = f"{lines[-1]} {piece}".strip()
            if measure(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(piece)
    lines = [line for line in lines if line]
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and measure(f"{last}…") > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last}…"]


def _break_word(word: str, width: float, measure: Callable[[str], float]) -> Iterator[str]:
    while len(word) > 1 and measure(word) > width:
        fits = 1
        while measure(word[: fits + 1]) <= width:
            fits += 1
        yield word[:fits]
        word = word[fits:]
    yield word


def _lay_out(entry: ReviewRow, fonts: Fonts) -> Image.Image:
    """One cell: the picture, or why there is none, with name, figures and text below."""
    flags = ", ".join([*entry.flags, *entry.marks])
    parts = [
        (entry.name, "bold", _INK, _NAME_LINES),
        (_tell_figures(entry), "text", _SOFT, 2),
        (flags if entry.ok else entry.status, "bold", _FAIL, 2),
        ((entry.text if entry.ok else entry.error) or "", "text", _INK, _TEXT_LINES),
    ]
    lines = [
        (line, fonts[font], colour)
        for text, font, colour, most in parts
        for line in wrap_text(text, width=_CELL, most=most, measure=fonts[font].getlength)
    ]
    height = _PICTURE + 10 + sum(_step(font) for _, font, _ in lines)
    cell = Image.new("RGB", (_CELL, height), _PAGE)
    _draw_picture(cell, entry, fonts["text"])
    brush, top = ImageDraw.Draw(cell), _PICTURE + 8
    for line, font, colour in lines:
        brush.text((0, top), line, font=font, fill=colour)
        top += _step(font)
    return cell


def _tell_figures(entry: ReviewRow) -> str:
    figures = [f"row {entry.position:,}"]
    if entry.words is not None:
        figures.append(f"{entry.words:,} words")
    if entry.repetition is not None:
        figures.append(f"repetition {100 * entry.repetition:.0f} %")
    if entry.score is not None:
        figures.append(f"CLIPScore {entry.score:.2f}")
    return " · ".join(figures)


def _draw_picture(cell: Image.Image, entry: ReviewRow, font: Font) -> None:
    brush = ImageDraw.Draw(cell)
    brush.rectangle((0, 0, _CELL - 1, _PICTURE - 1), fill=_BACK)
    if entry.picture is not None:
        with Image.open(io.BytesIO(entry.picture.content), formats=("JPEG",)) as picture:
            picture.thumbnail((_CELL, _PICTURE))
            cell.paste(picture, ((_CELL - picture.width) // 2, (_PICTURE - picture.height) // 2))
        return
    why = f"no picture: {entry.missing}" if entry.missing else "no picture"
    lines = wrap_text(why, width=_CELL - 40, most=4, measure=font.getlength)
    for number, line in enumerate(lines):
        place = (_CELL / 2, _PICTURE / 2 + (number - len(lines) / 2) * _step(font))
        brush.text(place, line, font=font, fill=_SOFT, anchor="ma")


def _draw_title(sheet: Image.Image, review: Review, count: int, fonts: Fonts) -> None:
    brush, width = ImageDraw.Draw(sheet), sheet.width - 2 * _MARGIN
    asked = f" with {review.asked}" if review.asked else ""
    about = f"{count:,} of {review.matching:,} rows{asked}, {SORTS[review.sort]}"
    top = _MARGIN
    for text, use, colour in (
        (f"Review of {review.title}", "title", _INK),
        (f"{about}. Dense text by {review.model}", "text", _SOFT),
    ):
        font = fonts[use]
        for line in wrap_text(text, width=width, most=1, measure=font.getlength):
            brush.text((_MARGIN, top), line, font=font, fill=colour)
        top += _step(font)


def _step(font: Font) -> int:
    return round(font.size * 1.4)


def _load_fonts() -> Fonts:
    """DejaVu Sans, which ships with matplotlib, so that system fonts do not matter."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return {
        use: ImageFont.truetype(folder / name, size, layout_engine=ImageFont.Layout.BASIC)
        for use, (name, size) in _FONTS.items()
    }
