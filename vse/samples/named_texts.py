"""Choosing which named texts to read from a folder with one captioning run for each.

OUT/texts.yaml lists their names under `texts`, and OUT/NAME/ is the run of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.dense.run import RUN_NAME
from data.errors import UserError
from data.settings.yaml_files import read_yaml
from vse.recipes import DataConfig

TEXTS_NAME = "texts.yaml"
# Default names of the dense and the sparse text.
DENSE, SPARSE = "dense", "condensed"


def list_runs(folder: Path) -> dict[str, Path]:
    """The folder of each named text, in order; none where `folder` is itself a run.

    Raises:
        UserError: a damaged texts.yaml.
    """
    path = folder / TEXTS_NAME
    if path.is_file():
        return {name: folder / name for name in _read_names(path)}
    if (folder / RUN_NAME).is_file():
        return {}
    return {run.parent.name: run.parent for run in sorted(folder.glob(f"*/{RUN_NAME}"))}


def first_run(folder: Path) -> Path:
    """The folder, or that of the first of its texts, which all have the same images."""
    return next(iter(list_runs(folder).values()), folder)


def _read_names(path: Path) -> list[str]:
    listed = read_yaml(path).get("texts")
    rows: Sequence[Any] = listed if isinstance(listed, list) else []
    names = [row.get("name") if isinstance(row, Mapping) else row for row in rows]
    # Names are folder names and must not lead elsewhere.
    wrong = [n for n in names if not isinstance(n, str) or Path(n).name != n or n in ("", "..")]
    if not names or wrong or len(set(names)) < len(names):
        fault = f"the name {wrong[0]!r}" if wrong else "no names, or a duplicate"
        raise UserError(
            f"{path} has {fault} under `texts`: list the folders beside it as `- name: NAME`"
        )
    return [str(name) for name in names]


def choose_texts(data: DataConfig, folder: Path, *, captioned: bool) -> DataConfig:
    """The settings with the names of the texts to read in a folder.

    Args:
        captioned: there are human captions, so no text is needed as the sparse one.

    Raises:
        UserError: an unknown name, or several texts of which none is chosen.
    """
    there = list(list_runs(folder))
    asked = [*(data.texts or ()), *([data.sparse_text] if data.sparse_text else [])]
    if not there and asked:
        raise UserError(
            f"{folder} contains one text per image and none named {asked[0]}: omit data.texts and "
            "data.sparse_text, or specify the folder of several texts with --dense"
        )
    unknown = [name for name in asked if name not in there]
    if unknown:
        raise UserError(f"{folder} has no text {unknown[0]}: it has {', '.join(there)}")
    if not there:
        return data
    sparse = data.sparse_text
    if sparse is None and not captioned and SPARSE in there and SPARSE not in (data.texts or ()):
        sparse = SPARSE
    texts = data.texts
    if texts is None:
        rest = [name for name in there if name != sparse]
        rest = [DENSE] if DENSE in rest else rest
        if len(rest) != 1:
            raise UserError(
                f"{folder} has the texts {', '.join(there)}: specify the dense text with --set "
                "'data.texts=[NAME]' and, in place of human captions, the short text with --set "
                "data.sparse_text=NAME"
            )
        texts = tuple(rest)
    return replace(data, texts=texts, sparse_text=sparse)
