"""Rows found by an image's id or file name, never by position."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence

from data.errors import UserError


class RowIndex:
    """Finds rows by id. Rows are told by their place: 0, 1, ..."""

    def __init__(
        self, image_ids: Sequence[str | None], file_names: Sequence[str], *, where: str
    ) -> None:
        """`where` names the rows in messages.

        Raises:
            UserError: an id or a file name stands in two rows.
        """
        self._where = where
        self._ids = _index([(name, row) for row, name in enumerate(image_ids) if name], where)
        self._names = _index([(name, row) for row, name in enumerate(file_names)], where)
        bases = Counter(posixpath.basename(name) for name in file_names)
        self._bases = {
            posixpath.basename(name): row
            for row, name in enumerate(file_names)
            if bases[posixpath.basename(name)] == 1
        }

    def find(self, image_id: str, *, file_name: str | None = None) -> int | None:
        """The row of an image, or None.

        A file name decides alone, in full or by its last part where only one row has it: two data
        sets count their images from 0, so that the same id may mean another image here.
        """
        if file_name is None:
            return self._ids.get(image_id)
        row = self._names.get(file_name)
        return self._bases.get(posixpath.basename(file_name)) if row is None else row

    def find_all(self, image_ids: Sequence[str], mapping: Mapping[str, str]) -> list[int]:
        """The row of each id, by the file name that `mapping` gives it, else by the id itself.

        Raises:
            UserError: ids without a row, the first named and all counted; two ids with one row.
        """
        rows = [self.find(name, file_name=mapping.get(name)) for name in image_ids]
        missing = [name for name, row in zip(image_ids, rows, strict=True) if row is None]
        if missing:
            hint = "" if mapping else "; where rows have other ids, give --id-mapping"
            raise UserError(
                f"{len(missing):,} of {len(image_ids):,} ids have no row in {self._where}: "
                f"{list_some(missing)}{hint}"
            )
        found = [row for row in rows if row is not None]
        first: dict[int, str] = {}
        for name, row in zip(image_ids, found, strict=True):
            if row in first:
                raise UserError(
                    f"the ids {first[row]} and {name} lead to one row of {self._where}: "
                    "the id mapping has one file name for both"
                )
            first[row] = name
        return found


def match(wanted: Sequence[str], names: Sequence[str], *, asked: Sequence[str]) -> list[str | None]:
    """For each wanted file name the same name, else the one with its base name, else None.

    A base name decides only where it is unique among `names` and among `asked`, all names that
    could have been wanted, so that two folders holding the same file name are never mixed up.
    """
    exact = set(names)
    on_disk = Counter(posixpath.basename(name) for name in names)
    bases = Counter(posixpath.basename(name) for name in asked)
    by_base = {posixpath.basename(name): name for name in names}
    found: list[str | None] = []
    for name in wanted:
        base = posixpath.basename(name)
        if name in exact:
            found.append(name)
        elif on_disk[base] == 1 and bases[base] == 1:
            found.append(by_base[base])
        else:
            found.append(None)
    return found


def list_some(names: Sequence[str], *, most: int = 3) -> str:
    """`a, b, c, ...`"""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _index(pairs: Sequence[tuple[str, int]], where: str) -> dict[str, int]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = [name for name, count in counts.items() if count > 1]
        raise UserError(
            f"{len(twice):,} images stand in more than one row of {where}: {list_some(twice)}"
        )
    return found
