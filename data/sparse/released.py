"""The files of the released D2S-VSE code, individually and as a caption source.

`{split}_ids.txt` and `{split}_caps.txt` correspond line by line; `{dataset}_{split}.jsonl` has one
dense text per image in the order of the ids. A missing line would shift every later pair, so
nothing is skipped: an invalid line is an error with its number. `id_mapping.json` names the file of
each id. The released loader calls the validation split `dev` and COCO's 5,000 test images as
`testall`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.text_files import read_json, read_json_lines, read_text, replace_halves
from data.matching import list_some, look_up
from data.sparse.source import CaptionedImage, CaptionSource

CAPTIONS_PER_IMAGE = 5
MAPPING = "id_mapping.json"
# The first that exists is read: `testall` contains `test`.
NAMES = {"train": ("train",), "val": ("val", "dev"), "test": ("testall", "test")}


@dataclass(frozen=True)
class ImageIds:
    """The ids of an ids file, each once, in order; each is repeated `repeats` times in the file."""

    path: Path
    ids: tuple[str, ...]
    repeats: int


@dataclass(frozen=True)
class DenseLine:
    """One line of a dense-text file."""

    text: str
    model_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read_ids(path: Path) -> ImageIds:
    """Read one id per line; an id that is repeated once per caption is returned once.

    Raises:
        UserError: unreadable, empty, a blank line, an id in two places, or an uneven number of
            repeats.
    """
    lines = [line.strip() for line in _read_lines(path)]
    if not lines:
        raise UserError(f"{path} contains no ids")
    if "" in lines:
        raise UserError(f"{path}: line {lines.index('') + 1} is blank: every line must be an id")
    runs = [(name, len(list(run))) for name, run in groupby(lines)]
    seen: dict[str, int] = {}
    line, repeats = 1, runs[0][1]
    for name, count in runs:
        if name in seen:
            raise UserError(f"{path}: the id {name} in line {line} is already in line {seen[name]}")
        if count != repeats:
            raise UserError(
                f"{path}: the id {name} in line {line} appears {count} times in a row, and "
                f"{runs[0][0]} in line 1 {repeats} times: each id must appear equally often"
            )
        seen[name] = line
        line += count
    return ImageIds(path, tuple(seen), repeats)


def describe_repeats(ids: ImageIds) -> list[str]:
    """A line for the user if repeated ids were returned once."""
    if ids.repeats == 1:
        return []
    return [
        f"{ids.path.name} has each of its {len(ids.ids):,} ids {ids.repeats} times in a row: used "
        "once"
    ]


def read_id_mapping(path: Path) -> dict[str, str]:
    """File names by id.

    Raises:
        UserError: not a JSON object of texts, or one id twice.
    """
    mapping = read_json(path, object_pairs_hook=_refuse_twice)
    if not isinstance(mapping, dict):
        raise UserError(f'{path} is not an id mapping: it should be {{"id": "file name", ...}}')
    for name, file_name in mapping.items():
        if not isinstance(file_name, str) or not file_name:
            raise UserError(
                f"{path}: the id {name} is mapped to {file_name!r}, which is not a file name"
            )
    return mapping


def read_caption_lines(path: Path, *, images: int) -> list[tuple[str, ...]]:
    """The captions of each of `images` images: the same number of consecutive lines per image.

    Raises:
        UserError: the lines cannot be divided evenly, or one is blank.
    """
    lines = [line.strip() for line in _read_lines(path)]
    if "" in lines:
        raise UserError(
            f"{path}: line {lines.index('') + 1} is blank: every line must be a caption"
        )
    if not lines or len(lines) % images:
        raise UserError(
            f"{path} has {len(lines):,} lines, which {images:,} ids cannot share evenly (usually "
            f"{CAPTIONS_PER_IMAGE} lines per image)"
        )
    each = len(lines) // images
    return [tuple(lines[start : start + each]) for start in range(0, len(lines), each)]


def read_dense_lines(path: Path) -> list[DenseLine]:
    """Every line of a dense-text file; texts are unchanged, including surrounding spaces.

    Raises:
        UserError: a line is not a JSON object with a text.
    """
    return [_read_dense_line(path, number, value) for number, value in read_json_lines(path)]


def format_dense_line(text: str, *, model_id: str) -> str:
    """A line in the format of the released files: only ASCII, without the line end."""
    return json.dumps({"text": text, "model_id": model_id, "metadata": {"length": len(text)}})


def find_lost_metadata(lines: Sequence[DenseLine]) -> list[int]:
    """Numbers of the lines whose metadata contains more than the length of the text."""
    return [
        number
        for number, line in enumerate(lines, start=1)
        if line.metadata and line.metadata != {"length": len(line.text)}
    ]


def _read_dense_line(path: Path, number: int, value: Any) -> DenseLine:
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise UserError(f'{path}: line {number} has no "text"')
    model, metadata = value.get("model_id"), value.get("metadata")
    return DenseLine(
        text=replace_halves(text),
        model_id=model if isinstance(model, str) else None,
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def _read_lines(path: Path) -> list[str]:
    """Ends of line as `\\n` alone makes them: a text can contain any other separator."""
    lines = read_text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has {name} twice")
        found[name] = value
    return found


def is_released_folder(path: Path) -> bool:
    """Whether the folder has ids with captions of at least one split."""
    return any(_find_split(path, split) is not None for split in NAMES)


def list_released_files(path: Path) -> list[Path]:
    """Ids, captions and mapping of every existing split.

    Raises:
        UserError: there is no mapping.
    """
    found = [name for split in NAMES if (name := _find_split(path, split)) is not None]
    files = [path / f"{name}_{kind}.txt" for name in found for kind in ("ids", "caps")]
    return [*files, _find_mapping(path)]


def read_released_folder(path: Path) -> CaptionSource:
    """Read every existing split, including its dense text.

    Raises:
        UserError: a file that cannot be read, different numbers of lines, an id without a file
            name, or an image in two splits.
    """
    mapping_path = _find_mapping(path)
    mapping = read_id_mapping(mapping_path)
    images: list[CaptionedImage] = []
    notes: list[str] = []
    for split in NAMES:
        name = _find_split(path, split)
        if name is None:
            continue
        found, said = _read_split(path, name, split, mapping, mapping_path)
        images += found
        notes += said
    return CaptionSource(path, "released", tuple(images), tuple(notes))


def has_dense_files(path: Path) -> bool:
    """Whether a folder has the captions and the dense text of training images."""
    return _find_split(path, "train") is not None and _find_dense(path, "train") is not None


def _read_split(
    path: Path, name: str, split: str, mapping: dict[str, str], mapping_path: Path
) -> tuple[list[CaptionedImage], list[str]]:
    ids_path = path / f"{name}_ids.txt"
    ids = read_ids(ids_path).ids
    captions = read_caption_lines(path / f"{name}_caps.txt", images=len(ids))
    names, found = look_up(ids, mapping)
    unknown = [image_id for image_id, name in zip(ids, names, strict=True) if name is None]
    if unknown:
        raise UserError(
            f"{len(unknown):,} of {len(ids):,} ids of {ids_path} have no file name in "
            f"{mapping_path}: {list_some(unknown)}"
        )
    dense_path = _find_dense(path, split)
    dense: list[str | None] = [None] * len(ids)
    notes = []
    if dense_path is not None:
        lines = read_dense_lines(dense_path)
        if len(lines) != len(ids):
            raise UserError(
                f"{dense_path} has {len(lines):,} lines and {ids_path} {len(ids):,} ids: they must "
                "match line by line, or images would get the texts of others"
            )
        dense = [line.text for line in lines]
        notes.append(f"dense text of {len(ids):,} {split} images from {dense_path.name}")
    made = [
        CaptionedImage(name or "", of_image, split, image_id, text)
        for name, image_id, of_image, text in zip(names, ids, captions, dense, strict=True)
    ]
    return made, [*found, *notes]


def _find_split(path: Path, split: str) -> str | None:
    """The name of a split in the folder."""
    for name in NAMES[split]:
        if (path / f"{name}_ids.txt").is_file() and (path / f"{name}_caps.txt").is_file():
            return name
    return None


def _find_dense(path: Path, split: str) -> Path | None:
    for name in NAMES[split]:
        # Names that begin with a dot come from the system that copied the folder.
        found = sorted(path.glob(f"[!.]*_{name}.jsonl"))
        if len(found) > 1:
            raise UserError(
                f"{len(found)} files with dense text of the {split} split in {path} "
                f"({', '.join(file.name for file in found)}): keep one"
            )
        if found:
            return found[0]
    return None


def _find_mapping(path: Path) -> Path:
    """Next to the ids, or one folder up, as in the released code's configuration."""
    for folder in (path, Path(os.path.abspath(path)).parent, path.resolve().parent):
        if (folder / MAPPING).is_file():
            return folder / MAPPING
    raise UserError(f"{path} has no {MAPPING}, which names the file of each id")
