"""Detecting the format of a file of texts, and reading each format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from captioner.imports.columns import TextColumns, choose_text_columns, read_row
from captioner.imports.sidecars import read_sidecars
from captioner.imports.texts import ImportedText, TextSource, make_text
from data.errors import UserError
from data.files.hashes import hash_file
from data.files.text_files import read_json
from data.sources.dataset import PREFIX
from data.sparse.released import ImageIds, find_lost_metadata, read_dense_lines
from data.tables.rows import open_table

FORMATS = ("auto", "d2s-jsonl", "sharegpt4v", "txt", "jsonl", "csv", "parquet", "hub")
_BY_SUFFIX = {".json": "sharegpt4v", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_RELEASED = {"text", "model_id", "metadata"}
# The speakers in ShareGPT4V's conversations: a list of {"id", "image", "conversations"}.
_ASKS, _ANSWERS = {"human", "user"}, {"gpt", "assistant"}


def read_dense_texts(
    file: str,
    *,
    format: str,
    ids: ImageIds | None,
    columns: TextColumns,
    split: str | None,
    images: Path | None,
) -> TextSource:
    """Read a file of texts, or a data set: a folder, or `hf:NAME` of the Hub.

    Args:
        format: one of FORMATS; auto looks at the name and, for JSON lines, at the first line.
        ids: the ids file; required for d2s-jsonl, whose texts have no other link to their images.
        columns: of a table; others are found by their usual names.
        split: which split of a data set.
        images: where the images of `txt` are, if not next to them.

    Raises:
        UserError: no such file, an unknown kind, or not readable in this format.
    """
    path = Path(file)
    kind = _recognise(file) if format == "auto" else format
    if kind == "txt" and not path.is_dir():
        raise UserError(f"{file} is not a folder, but --format txt reads a folder of .txt files")
    if kind not in ("hub", "txt") and not path.is_file():
        raise UserError(f"{file} is not a file: specify one, or hf:NAME for a data set of the Hub")
    if columns.named() and kind in ("d2s-jsonl", "sharegpt4v", "txt"):
        raise UserError(f"{file} is {kind}, which has no columns")
    if kind == "d2s-jsonl":
        if ids is None:
            raise UserError(
                f"{file} has texts without ids: specify the ids file of its split with --ids"
            )
        source = _read_released(path, ids)
    elif kind == "sharegpt4v":
        source = _read_sharegpt(path)
    elif kind == "txt":
        return read_sidecars(path, images=images)
    else:
        source = _read_table(file, format=kind, wanted=columns, split=split)
    return source if kind == "hub" else replace(source, sha256=hash_file(path))


def _recognise(file: str) -> str:
    path = Path(file)
    if file.startswith(PREFIX) or path.is_dir():
        return "hub"
    if not path.exists():
        raise UserError(f"{file} does not exist; for a data set of the Hub, use {PREFIX}NAME")
    if path.suffix.lower() != ".jsonl":
        known = _BY_SUFFIX.get(path.suffix.lower())
        if known is None:
            raise UserError(f"{file} has an unknown ending: specify its format with --format")
        return known
    with path.open("rb") as lines:
        first = lines.readline()
    try:
        names = set(json.loads(first))
    except (ValueError, TypeError):
        names = set()
    return "d2s-jsonl" if "text" in names and names <= _RELEASED else "jsonl"


def _read_released(path: Path, ids: ImageIds) -> TextSource:
    """The texts of a `{dataset}_{split}.jsonl`, each with the id on the same line.

    Raises:
        UserError: a line that cannot be read, or a different number of lines and ids.
    """
    lines = read_dense_lines(path)
    if len(lines) != len(ids.ids):
        raise UserError(
            f"{path} has {len(lines):,} lines and {ids.path} {len(ids.ids):,} ids, but they must "
            "match line by line: specify the ids file of exactly this split"
        )
    texts: list[ImportedText] = [
        make_text(f"line {number}", line.text, image_id=name)
        for number, (line, name) in enumerate(zip(lines, ids.ids, strict=True), start=1)
    ]
    lost = find_lost_metadata(lines)
    notes = []
    if lost:
        notes.append(
            f"{len(lost):,} lines have metadata that does not match the length of their text, line "
            f"{lost[0]} first: the metadata is left out"
        )
    return TextSource(
        name=path.name,
        format="d2s-jsonl",
        texts=texts,
        models=frozenset(line.model_id for line in lines if line.model_id),
        notes=tuple(notes),
        ordered=True,
    )


def _read_sharegpt(path: Path) -> TextSource:
    """The answer of each conversation, matched to its image by the entry's id and file name.

    Raises:
        UserError: not such a JSON file, or an entry without an image or with several answers.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise UserError(f"{path} is not ShareGPT4V's JSON, which is a list of conversations")
    texts = [_read_entry(path, number, entry) for number, entry in enumerate(entries)]
    return TextSource(path.name, "sharegpt4v", texts)


def _read_entry(path: Path, number: int, entry: Any) -> ImportedText:
    where = f"entry {number}"
    try:
        image, turns = entry["image"], entry["conversations"]
        said = [(turn["from"], turn["value"]) for turn in turns]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: {where} lacks {error}") from error
    image_id = entry.get("id")
    if not isinstance(image, str) or not isinstance(image_id, str | int | None):
        raise UserError(f"{path}: {where} has an image or id that is not text")
    answers = [value for speaker, value in said if speaker in _ANSWERS]
    asked = [value for speaker, value in said if speaker in _ASKS]
    if len(answers) != 1 or len(asked) > 1 or not isinstance(answers[0], str):
        raise UserError(
            f"{path}: {where} is a conversation of {len(said)} turns, not one description of an "
            "image"
        )
    return make_text(
        where,
        answers[0],
        image_id=None if image_id is None else str(image_id),
        file_name=image,
    )


def _read_table(path: str, *, format: str, wanted: TextColumns, split: str | None) -> TextSource:
    """The texts of a table; `split` is which of a data set's splits is read.

    Raises:
        UserError: it cannot be read, lacks a column, or has a value of the wrong type.
    """
    # Rows are identified by their columns, so blank lines can be skipped.
    table = open_table(path, kind=format, split=split, skip_blank=True)
    if not table.names:
        raise UserError(f"{path} is empty")
    columns = choose_text_columns(path, table.names, wanted)
    texts = []
    models: set[str] = set()
    for where, values in table.read(list(columns.named().values()), columns.file):
        texts.append(read_row(f"{path}: {where}", values, columns))
        model = values.get(columns.model) if columns.model else None
        if isinstance(model, str) and model:
            models.add(model)
    if format == "parquet" and not models:
        models |= _read_own_model(Path(path))
    name = path.removeprefix(PREFIX)
    if format != "hub" or Path(name).is_dir():
        # Published shards contain it, so where a folder is must not be part of it.
        name = Path(name).name
    return TextSource(name, format, texts, frozenset(models))


def _read_own_model(path: Path) -> set[str]:
    """The model of a file exported by d2s, where it is in the metadata, not in a column."""
    metadata = pq.read_schema(path).metadata or {}
    model = json.loads(metadata.get(b"d2s.run", b"{}")).get("model")
    return {model} if isinstance(model, str) else set()
