"""Matching images and texts: one rule for names and ids, never by position in a file.

Whole names and ids are tried first. The end of a path, a number or another spelling only decides if
nothing else fits on either side, and is reported with a count. Different folders never match:
`dogs/1.jpg` is not `cats/1.jpg`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import UserError

Keys = tuple[str | None, ...]

# 007, 7.0 (an id that went through a table of floats), 0007.jpg
_NUMBER = re.compile(r"0*([0-9]+)(?:\.0+)?(\.[A-Za-z]+)?")
# COCO_val2014_000000000007.jpg and train2017/000000000007.png are one image: its numbers are unique
# over all years and splits.
_COCO = re.compile(r"(?:COCO_[A-Za-z0-9]+_)?0*([0-9]+)(?:\.[A-Za-z]+)?")
_COCO_DIGITS = re.compile(r"(?:^|_)[0-9]{12}(?:\.|$)")
_COCO_SPLIT = re.compile(r"(train|val|test)(20[0-9]{2})")
# The image folder itself is not a folder of the data set.
_CONTAINER = re.compile(r".*\.(?:tar|zip|parquet)(?:/|::)")


def name_id(value: Any) -> str | None:
    """An id as text: an integer that became a float is restored; None for a missing id.

    Raises:
        ValueError: it is neither text nor a number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise ValueError(f"{value!r} is not an id")
    if isinstance(value, float):
        if value != value:  # NaN: how a column of floats writes null
            return None
        value = int(value) if value.is_integer() else value
    return None if value is None or value == "" else str(value)


@dataclass(frozen=True)
class Ties:
    """The row of each wanted item, or None.

    `notes` say how many were matched by less than a whole name, and how many were not because
    several fit.
    """

    rows: list[int | None]
    notes: tuple[str, ...] = ()


def tie(wanted: Sequence[str | None | Keys], rows: Sequence[str | None | Keys]) -> Ties:
    """Find the row of each wanted item; both are names, or tuples of a name and ids.

    The first key that an item has is its whole name; the others count as another spelling of it.
    """
    asked, known = [_as_keys(item) for item in wanted], [_as_keys(item) for item in rows]
    whole: dict[str, list[int]] = defaultdict(list)
    for row, keys in enumerate(known):
        whole[_show(keys)].append(row)
    sure = [whole.get(_show(keys), []) for keys in asked]
    ties = [
        found[0] if len(found) == 1 and _show(keys) else None
        for keys, found in zip(asked, sure, strict=True)
    ]
    if None not in ties:
        return Ties(ties)
    distinct = list(dict.fromkeys(asked))
    ours, theirs = _Spellings(distinct), _Spellings(known)
    loose: list[str] = []
    unclear: list[str] = []
    for place, keys in enumerate(asked):
        fits = theirs.find(keys) if ties[place] is None else ()
        if not fits:
            continue
        row = min(fits)
        if len(fits) > 1 or len(ours.find(known[row])) > 1:
            unclear.append(f"{_show(keys)} may be {_show(known[row])}")
        elif not _are_of_two_splits(keys, known[row]):
            ties[place] = row
            loose.append(f"{_show(keys)} is {_show(known[row])}")
    return Ties(ties, tuple(_describe(loose, unclear, len(asked))))


def look_up(
    ids: Sequence[str | None], mapping: Mapping[str, str]
) -> tuple[list[str | None], tuple[str, ...]]:
    """The value in `mapping` for each id, and notes for the user."""
    ties, names = tie(ids, list(mapping)), list(mapping.values())
    return [None if row is None else names[row] for row in ties.rows], ties.notes


def find_rows(
    ids: Sequence[str],
    mapping: Mapping[str, str],
    rows: Sequence[Keys],
    *,
    where: str,
) -> tuple[list[int], tuple[str, ...]]:
    """The row of each id among `rows` of (file name, id), and notes for the user.

    If `mapping` has a file name for an id, only that name decides: two data sets can both number
    their images from 0, so the same id may mean another image here.

    Raises:
        UserError: ids without a row, the first named and all counted; two ids with one row; one
            name or id in two rows.
    """
    refuse_twice([name for name, _ in rows], where=where)
    refuse_twice([name for _, name in rows], where=where)
    given, notes = look_up(ids, mapping)
    named = tie(given, [name for name, _ in rows])
    others = [name if file is None else None for name, file in zip(ids, given, strict=True)]
    plain = tie(others, [(name, file) for file, name in rows])
    found = [a if a is not None else b for a, b in zip(named.rows, plain.rows, strict=True)]
    missing = [name for name, row in zip(ids, found, strict=True) if row is None]
    notes = (*notes, *named.notes, *plain.notes)
    if missing:
        hint = "" if mapping else "; where rows have other ids, give --id-mapping"
        raise UserError(
            f"{len(missing):,} of {len(ids):,} ids have no row in {where}: "
            f"{list_some(missing)}{hint}{''.join(f' ({note})' for note in notes)}"
        )
    first: dict[int | None, str] = {}
    for name, row in zip(ids, found, strict=True):
        if first.setdefault(row, name) != name:
            raise UserError(
                f"the ids {first[row]} and {name} lead to the same row of {where}: the id mapping "
                "has the same file name for both"
            )
    return [row for row in found if row is not None], notes


def refuse_twice(names: Iterable[str | None], *, where: str) -> None:
    """UserError if a name or an id occurs in two rows."""
    seen: dict[str, int] = defaultdict(int)
    for name in names:
        if name:
            seen[name] += 1
    if twice := [name for name, count in seen.items() if count > 1]:
        raise UserError(
            f"{len(twice):,} images appear in more than one row of {where}: {list_some(twice)}"
        )


def list_some(names: Sequence[str], *, most: int = 3) -> str:
    """`a, b, c, ...`"""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


class _Spellings:
    """Items by each path suffix of each spelling of their keys; at most two per suffix are kept."""

    def __init__(self, items: Sequence[Keys]) -> None:
        self._ends: dict[str, tuple[int, ...]] = {}
        self._whole: dict[str, tuple[int, ...]] = {}
        for number, keys in enumerate(items):
            for spelling in _spell_all(keys):
                _add(self._whole, spelling, number)
                for end in _list_ends(spelling):
                    _add(self._ends, end, number)

    def find(self, keys: Keys) -> set[int]:
        """Items one of whose spellings ends in one of `keys`, or the other way round."""
        found: set[int] = set()
        for spelling in _spell_all(keys):
            found.update(self._ends.get(spelling, ()))
            for end in _list_ends(spelling):
                found.update(self._whole.get(end, ()))
        return found


def _add(index: dict[str, tuple[int, ...]], key: str, number: int) -> None:
    known = index.get(key, ())
    if len(known) < 2 and number not in known:
        index[key] = (*known, number)


def _spell_all(keys: Keys) -> set[str]:
    return {spelling for key in keys if key for spelling in _spell(key)}


def _spell(name: str) -> Iterator[str]:
    """The canonical spelling of a name, and COCO's number alone."""
    text = _CONTAINER.sub("", unicodedata.normalize("NFC", name).replace("\\", "/"))
    parts = [part for part in text.split("/") if part not in ("", ".")] or [text]
    *folders, last = parts
    number = _NUMBER.fullmatch(last)
    yield "/".join([*folders, number[1] + (number[2] or "").lower() if number else last])
    coco = _COCO.fullmatch(last) if _COCO_DIGITS.search(last) else None
    if coco:
        if folders and _COCO_SPLIT.fullmatch(folders[-1]):
            folders.pop()
        yield "/".join([*folders, coco[1]])


def _are_of_two_splits(one: Keys, other: Keys) -> bool:
    """Whether these are two COCO splits of the same year, which share no images."""
    first, second = (
        {year: split for key in keys if key for split, year in _COCO_SPLIT.findall(key)}
        for keys in (one, other)
    )
    return any(second.get(year, split) != split for year, split in first.items())


def _list_ends(path: str) -> Iterator[str]:
    """`a/b/c` -> `a/b/c`, `b/c`, `c`"""
    yield path
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _as_keys(item: str | None | Keys) -> Keys:
    return item if isinstance(item, tuple) else (item,)


def _show(keys: Keys) -> str:
    return next((key for key in keys if key), "")


def _describe(loose: Sequence[str], unclear: Sequence[str], total: int) -> Iterator[str]:
    if loose:
        yield (
            f"{len(loose):,} of {total:,} matched by the end of the name, a number or another "
            f"spelling: {list_some(loose, most=1)}"
        )
    if unclear:
        yield (
            f"{len(unclear):,} of {total:,} not matched, because more than one fits: "
            f"{list_some(unclear, most=1)}; use full names"
        )
