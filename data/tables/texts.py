"""Texts to embed: lines, tables, captions of images, a captioning run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.dense.run import RUN_NAME
from data.dense.shards import iterate_rows
from data.errors import UserError
from data.files.text_files import IMAGE_CELL, read_text, replace_halves
from data.matching import name_id
from data.sparse.captions import find_delimiter_of_captions, read_captions
from data.tables.rows import PREFIX, open_table

# Usual names, the most specific first.
_TEXT = ("text", "caption", "dense", "sentence")
_ID = ("id", "sample_id")
# The header of captions of images, or one of them: `1.jpg,...`, `1#0<TAB>...`
_CAPTIONS = re.compile(
    rf"\A\"?image(_name)?\"?\s*[,;|\t]|^{IMAGE_CELL}[,;|\t]|\A[^\t\n]+#\d+\t",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class TextRecord:
    """One text, and its image if known. The text is None for a row without one."""

    id: str
    text: str | None
    image_id: str | None = None
    file_name: str | None = None


def read_texts(
    path: Path,
    *,
    column: str | None = None,
    split: str | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> list[TextRecord]:
    """The texts of a file or a captioning run, in order.

    Args:
        column: where a table has the text; by default one of the usual names.
        split: only the captions of this split, or this split of a data set.
        on_note: called with notes on captions that were left out, and on how splits were made.

    Raises:
        UserError: it cannot be read, is empty or of an unknown kind, or an option does not apply.
    """
    kind = _recognise(path)
    if split is not None and kind not in ("captions", "hub"):
        raise UserError(f"--split cannot be used with {path}: it has no splits")
    if column is not None and kind in ("lines", "captions", "run"):
        raise UserError(f"--text-column cannot be used with {path}: it has no columns")
    records = list(_read(path, kind, column, split, on_note))
    if not records:
        raise UserError(f"{path} contains no texts{f' of the split {split}' if split else ''}")
    return records


def _recognise(path: Path) -> str:
    if str(path).startswith(PREFIX):
        return "hub"
    if path.is_dir():
        # A folder of several runs is refused; the message lists them.
        runs = (path / RUN_NAME).is_file() or any(path.glob(f"*/{RUN_NAME}"))
        return "run" if runs else "captions"
    if not path.is_file():
        raise UserError(f"the texts {path} do not exist")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".parquet"):
        return suffix[1:]
    if suffix == ".json":
        return "captions"
    if suffix in (".txt", ".csv", ".tsv", ".token"):
        # A table is recognized by its header; a text file may also be recognized by its next line.
        first = read_text(path).split("\n", 2)[: 2 if suffix == ".txt" else 1]
        table = suffix == ".txt" and find_delimiter_of_captions(path)
        if table or _CAPTIONS.search("\n".join(first)):
            return "captions"
        if suffix in (".txt", ".csv", ".tsv"):
            return "lines" if suffix == ".txt" else "csv"
    raise UserError(
        f"{path} is not a known kind of file: specify .txt (one text per line), .jsonl, .csv, "
        f".parquet, {PREFIX}NAME for a data set, captions (dataset_*.json, captions_*.json, "
        "captions.txt) or the folder of a captioning run"
    )


def _read(
    path: Path,
    kind: str,
    column: str | None,
    split: str | None,
    on_note: Callable[[str], None],
) -> Iterator[TextRecord]:
    if kind == "lines":
        return _read_lines(path)
    if kind == "run":
        return _read_run(path)
    if kind == "captions":
        return _read_captions(path, split, on_note)
    return _read_table(path, kind, column, split)


def _read_lines(path: Path) -> Iterator[TextRecord]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield TextRecord(str(number), line.strip())


def _read_captions(
    path: Path, split: str | None, on_note: Callable[[str], None]
) -> Iterator[TextRecord]:
    source = read_captions(path)
    for note in source.left_out if split is None else source.notes:
        on_note(note)
    for image in source.images:
        if split in (None, image.split):
            name = image.image_id or image.file_name
            for number, caption in enumerate(image.captions):
                yield TextRecord(f"{name}#{number}", caption, image.image_id, image.file_name)


def _read_run(path: Path) -> Iterator[TextRecord]:
    for table in iterate_rows(path, ["sample_id", "caption", "image_id", "file_name"]):
        for row in table.to_pylist():
            yield TextRecord(row["sample_id"], row["caption"], row["image_id"], row["file_name"])


def _read_table(
    path: Path, kind: str, column: str | None, split: str | None
) -> Iterator[TextRecord]:
    table = open_table(str(path), kind=kind, split=split, skip_blank=True)
    if table.names:
        _choose(path, table.names, column)
    known = {*_TEXT, *_ID, "image_id", "file_name", column}
    rows = table.read([name for name in table.names if name in known], None)
    for number, (where, row) in enumerate(rows, start=1):
        text = row.get(_choose(path, list(row), column))
        if text is not None and not isinstance(text, str):
            raise UserError(f"{path}: {where} has a text that is not text: {text!r:.80}")
        try:
            ids = [name_id(row.get(name)) for name in (*_ID, "image_id", "file_name")]
        except ValueError as error:
            raise UserError(f"{path}: {where}: {error}") from error
        *keys, image_id, file_name = ids
        key = next((key for key in keys if key is not None), str(number))
        yield TextRecord(key, None if text is None else replace_halves(text), image_id, file_name)


def _choose(path: Path, names: Sequence[str], column: str | None) -> str:
    """The column of texts."""
    if column is not None and column in names:
        return column
    found = next((name for name in _TEXT if name in names), None)
    if column is not None or found is None:
        missing = f"no column {column}" if column is not None else "no text column"
        raise UserError(
            f"{path} has {missing} (it has {', '.join(map(str, names)) or 'none'}): specify one "
            "with --text-column"
        )
    return found
