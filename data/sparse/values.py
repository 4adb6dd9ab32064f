"""Checked access to the values of caption files; errors name the place in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.text_files import replace_halves
from data.matching import name_id
from data.sparse.source import SPLITS

# Other names of the splits.
_SPLIT_NAMES = {"restval": "train", "training": "train", "dev": "val", "valid": "val",
                "validation": "val", "testing": "test"}  # fmt: skip


def get_value(where: str, row: Any, key: str, kind: type, *, default: Any = None) -> Any:
    """A required value of the given type."""
    value = row.get(key) if isinstance(row, dict) else None
    value = default if value is None else value
    if value is None or value == "" and kind is object:
        raise UserError(f"{where} lacks {key!r}")
    if not isinstance(value, kind):
        what = "text" if kind is str else "a list"
        raise UserError(f"{where} has a {key!r} that is not {what}: {value!r:.80}")
    return value


def get_id(where: str, value: Any) -> str | None:
    """An id as text. Raises UserError if it is not one."""
    try:
        return name_id(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def name_split(where: str, given: str) -> str:
    """train, val or test, by any of their names. Raises UserError for others."""
    split = _SPLIT_NAMES.get(given.strip().lower(), given.strip().lower())
    if split not in SPLITS:
        known = ", ".join((*SPLITS, *_SPLIT_NAMES))
        raise UserError(f"{where} has the unknown split {given!r}; known: {known}")
    return split


def count_left_out(path: Path, count: int, what: str) -> tuple[str, ...]:
    """A note for the user if anything was left out."""
    return (f"{path.name}: {count:,} {what}: left out",) if count else ()


def part_blank(said: list[tuple[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Captions that are not blank, and their ids; no ids if one is missing."""
    kept = [(caption, number) for caption, number in said if caption]
    ids = [number for _, number in kept]
    return tuple(caption for caption, _ in kept), () if None in ids else tuple(map(str, ids))


def clean_caption(caption: str) -> str:
    """On one line, as it can be stored."""
    return replace_halves(" ".join(caption.split()))
