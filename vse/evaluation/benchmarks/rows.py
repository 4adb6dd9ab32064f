"""Reading the examples of a benchmark from its files in their published layout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

from data.errors import UserError
from data.files.text_files import read_json, read_text
from data.sparse.captions import read_captions
from data.tables.rows import open_table
from vse.evaluation.benchmarks.declaration import Benchmark, Rows

# For JSON files that are read example by example; one of them has 1.5 GB.
_CHUNK = 1 << 20
_TABLES = {".jsonl": "jsonl", ".jsonlines": "jsonl", ".csv": "csv", ".tsv": "csv"}
_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """Images with their texts; ids are those of the caption file.

    `images` are paths below the benchmark's folder, `group` is a language or a category.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    group: str = ""
    image_id: str | None = None
    text_ids: tuple[str, ...] = ()


def read_examples(benchmark: Benchmark, folder: Path) -> list[Example]:
    """All examples, in the order of the files.

    Raises:
        UserError: a file cannot be read or has another layout; names it.
    """
    if benchmark.captions is not None:
        return _read_captions(benchmark, folder, benchmark.captions)
    found = (example for rows in benchmark.rows for example in _read_rows(benchmark, rows, folder))
    return list(islice(found, benchmark.first))


def list_files(rows: Rows, folder: Path) -> list[Path]:
    """The files of these rows, in the order of their list, or else by name.

    Raises:
        UserError: there are none.
    """
    if rows.listed is not None:
        listed = read_json(folder / rows.listed)
        parts = list(listed.values()) if isinstance(listed, dict) else [listed]
        names = [name for part in parts if isinstance(part, list) for name in part]
        if not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{folder / rows.listed} does not list names of files")
        files = [folder / rows.file.replace("*", _safe(name, folder / rows.listed), 1)
                 for name in names]  # fmt: skip
    else:
        files = sorted(folder.glob(rows.file), key=_number)
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None or not files:
        raise UserError(f"{missing or folder / rows.file} is missing")
    return files


def _number(path: Path) -> tuple[int, str]:
    """`9.txt` before `10.txt`."""
    return (int(path.stem) if path.stem.isdecimal() else -1), path.name


def _read_captions(benchmark: Benchmark, folder: Path, file: str) -> list[Example]:
    """Of the test split, five captions of each image, as is common."""
    return [
        Example(
            (_safe(str(PurePosixPath(benchmark.images_in, image.file_name)), folder / file),),
            image.captions[:5],
            "",
            image.image_id,
            image.caption_ids[:5],
        )
        for image in read_captions(folder / file).images
        if image.split == "test"
    ]


def _read_rows(benchmark: Benchmark, rows: Rows, folder: Path) -> Iterator[Example]:
    for file in list_files(rows, folder):
        for number, found in enumerate(_read_file(file), start=1):
            where = f"{file}: row {number}"
            row = {"stem": file.stem, **found}
            if any(str(_look(key, row, where)) != str(value) for key, value in rows.where.items()):
                continue
            for language in benchmark.languages:
                if language:
                    row["language"] = _look(language, row, where)
                yield _make_example(rows, row, where, language, cut=benchmark.text_cut)


def _make_example(rows: Rows, row: _Row, where: str, language: str, *, cut: str) -> Example:
    texts = [text for one in rows.texts for text in _list(_fill(one, row, where))]
    if cut == "first line":
        texts = [(text.splitlines() or [""])[0] for text in texts]
    cleaned = tuple(" ".join(text.split()) for text in texts)
    if not cleaned or not all(cleaned):
        raise UserError(f"{where} has an empty text")
    images = tuple(_safe(str(_fill(one, row, where)), where) for one in rows.images)
    return Example(images, cleaned, language or rows.group)


def _read_file(file: Path) -> Iterator[_Row]:
    if file.suffix in _TABLES or file.suffix == ".parquet":
        table = open_table(str(file), kind=_TABLES.get(file.suffix, "parquet"), skip_blank=True)
        return (row for _, row in table.read(table.names, None))
    if file.suffix == ".json":
        return _read_json_rows(file)
    return iter([{"text": read_text(file)}])


def _read_json_rows(file: Path) -> Iterator[_Row]:
    """The objects of a list, the values of an object of objects, or the only object of the file."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            begins = opened.read(_CHUNK).lstrip()[:1]
        if begins == "[":
            yield from _iterate_list(file)
            return
    except UnicodeDecodeError as error:
        raise UserError(f"{file} cannot be read as JSON: {error.reason}") from error
    whole = read_json(file)
    if not isinstance(whole, dict):
        raise UserError(f"{file} holds {whole!r:.40} where objects should be")
    rows = list(whole.values())
    yield from rows if rows and all(isinstance(row, dict) for row in rows) else [whole]


def _iterate_list(file: Path) -> Iterator[_Row]:
    """Yield one object at a time: the first thousand of a million fit into memory."""
    decode = json.JSONDecoder().raw_decode
    with file.open(encoding="utf-8-sig") as opened:
        text, at = opened.read(_CHUNK).lstrip(), 1
        while True:
            while text[at : at + 1] in (" ", "\t", "\r", "\n", ","):
                at += 1
            try:
                value, at = decode(text, at)
            except (ValueError, RecursionError) as error:
                if text[at : at + 1] == "]":
                    return
                more = opened.read(_CHUNK)
                if not more:
                    raise UserError(f"{file} cannot be read as JSON: {error}") from error
                text, at = text[at:] + more, 0
                continue
            if not isinstance(value, dict):
                raise UserError(f"{file} has {value!r:.40} where an object is expected")
            yield value


def _fill(template: str, row: _Row, where: str) -> Any:
    """Fill a template; a template that is a single column gives the column's value unchanged."""
    parts = list(Formatter().parse(template))
    if len(parts) == 1 and not parts[0][0] and parts[0][1]:
        return _look(parts[0][1], row, where)
    return "".join(
        text + ("" if name is None else str(_look(name, row, where))) for text, name, *_ in parts
    )


def _look(name: str, row: _Row, where: str) -> Any:
    try:
        return Formatter().get_field(name, (), row)[0]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where} has no {name} (it has {', '.join(map(str, row))}): is this the set in its "
            "published layout?"
        ) from error


def _list(value: Any) -> list[str]:
    """A list of texts; null and NaN (its form in tables of numbers) count as none."""
    values = value if isinstance(value, list) else [value]
    return ["" if one is None or one != one else str(one) for one in values]


def _safe(place: str, where: Any) -> str:
    """A path below the folder: rows cannot refer to other files on this machine."""
    path = PurePosixPath(place)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{where} names a file elsewhere: {place[:200]}")
    return str(path)
