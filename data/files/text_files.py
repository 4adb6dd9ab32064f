"""Reading text, JSON and delimited files: errors name the actual line."""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import UserError

# The most common first: if a header contains several, the others are part of a name.
DELIMITERS = (",", "\t", ";", "|")
# The form of a cell that names an image. A line that begins like this is a new row, even if a
# quotation mark was left open before it.
IMAGE_CELL = r"[^\n,;|\t]+\.(?:jpe?g|png|webp|bmp|gif|tiff?)[^\n,;|\t]*"
_ROW = re.compile(rf"\n{IMAGE_CELL}[,;|\t]", re.IGNORECASE)
# Missing values in tables of text.
NULLS = frozenset({"NaN", "nan", "<NA>", "NULL", "null", "None"})
# Several captions in one cell, as JSON or as pandas writes a column of lists.
_LIST = re.compile(r"""\[\s*(["']).*\]""", re.DOTALL)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark; a byte order mark is no text.

    Raises:
        UserError: it cannot be read, is not text, or has another encoding; names the line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} cannot be read: it does not exist") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        # Pillow is only imported for this message.
        from data.files.formats import name_other

        if other := name_other(content):
            message = f"{path} cannot be read as text: it is {other}; specify a text file"
            raise UserError(message) from error
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} cannot be read as UTF-8 text: line {line} is not UTF-8 ({error.reason}); "
            "convert it, for example with iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{path} cannot be read as text: line {line} contains a zero byte, which suggests "
            "UTF-16 without a byte order mark: convert it, for example with iconv -f UTF-16LE -t "
            "UTF-8"
        )
    return text


def read_json(path: Path, **options: Any) -> Any:
    """The content of a JSON file; `options` are those of json.loads.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return json.loads(read_text(path), **options)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


def read_json_lines(path: Path, *, skip_blank: bool = False) -> Iterator[tuple[int, Any]]:
    """(line, value) of each line; only `\\n` ends one.

    Raises:
        UserError: it cannot be read, with the line.
    """
    lines = read_text(path).split("\n")
    if not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line.strip() and skip_blank:
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not JSON ({error})") from error


def read_delimited(
    path: Path, *, delimiter: str | None = None, quotes: bool = True, strip: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank, the header first; `line` is where it begins.

    Args:
        delimiter: by default the first of DELIMITERS that is in the first line.
        quotes: whether a cell in quotation marks may contain delimiters and line ends.
        strip: whether spaces next to a `|`, which people write for themselves, are removed.

    Raises:
        UserError: it cannot be read, a quotation mark is left open, or the header comes again, with
            the line.
    """
    text = read_text(path)
    sign = delimiter or find_delimiter(text)
    # A text longer than the csv module's limit is probably a mistake, but the error should be ours.
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=sign,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
    )
    line, header = 1, None
    try:
        for row in reader:
            if quotes and row and row == header:
                raise UserError(f"{path}: line {line} repeats the header: split the file in two")
            if reader.line_num > line and any(_ROW.search(cell) for cell in row):
                raise csv.Error("a cell continues over other rows")
            if row:
                yield line, [cell.strip() for cell in row] if strip and sign == "|" else row
            line, header = reader.line_num + 1, header or row
    except csv.Error as error:
        raise UserError(
            f"{path} cannot be read as CSV: {error} in the row that begins in line {line}: a "
            'quotation mark may not be closed there; one within the text must be doubled ("")'
        ) from error


def list_captions(where: str, cell: str) -> list[str]:
    """The caption of a cell, or the captions of a list in it.

    Raises:
        UserError: a list that cannot be read, or of more than texts.
    """
    if not _LIST.fullmatch(cell.strip()):
        return [cell]
    try:
        found = json.loads(cell)
    except ValueError:
        try:
            found = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise UserError(f"{where} has a list that contains more than captions: {cell:.80}")
    return found


def find_delimiter(text: str) -> str:
    """The delimiter of a table that begins with a header."""
    first = text.split("\n", 1)[0]
    return next((sign for sign in DELIMITERS if sign in first), ",")


def replace_halves(text: str) -> str:
    """The text as it can be stored: a lone surrogate, which JSON can contain, becomes `?`."""
    return text.encode("utf-8", "replace").decode()
