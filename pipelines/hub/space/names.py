"""The file names in a Space: without the folders of this machine and the queries of addresses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from data.environment import strip_path
from vse.search.index import Index


def shorten_names(indexes: Sequence[Index]) -> Mapping[str, str]:
    """The new name of each file name in the indexes that must not be published as it is.

    Different names stay different, so that no image gets the texts of another.
    """
    short: dict[str, str] = {}
    taken: set[str] = set()
    for index in indexes:
        names = dict.fromkeys(name for name in index.read_file_names() if name)
        # Of a list of absolute paths, names are relative to the root of the file system.
        absolute = bool(names) and index.info.source.get("root") == "/"
        start = len(_find_folder(names)) if absolute else 0
        for name in names:
            new = strip_path(name[start:])
            if new == name:
                taken.add(name)
            else:
                short.setdefault(name, new)
    for name, new in short.items():
        short[name] = _make_unique(new, taken)
        taken.add(short[name])
    return short


def _find_folder(names: Iterable[str]) -> str:
    """The folder that contains all files, with its `/`."""
    folder = os.path.commonpath([os.path.dirname(name) for name in names])
    return f"{folder}/" if folder else ""


def _make_unique(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found
