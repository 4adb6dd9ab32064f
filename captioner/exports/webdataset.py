"""Export to WebDataset tar files: KEY.jpg, KEY.txt and KEY.json for each image."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from captioner.exports.images import Pictures, name_kind
from captioner.exports.selection import Selection
from data.dense.schema import CAPTION_SCHEMA
from data.files.atomic import replace_folder

# A dot would end the key, and a slash would start a folder.
_SAFE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class TarResult:
    """The number of samples written, and the formats of their images."""

    samples: int
    kinds: dict[str, int]
    dropped: tuple[str, ...]


def write_tars(
    selection: Selection, out: Path, *, shard_size: int, pictures: Pictures, overwrite: bool
) -> TarResult:
    """Write tar files of `shard_size` samples to `out`. The same rows give the same bytes.

    The images are the original files, with the extension of their format; lost ones are left out.
    Every KEY.json has the same fields and types, since `datasets` infers them from the first five:
    a list of flags becomes a string, a missing text is "", and numbers that some rows lack are
    dropped.

    Raises:
        UserError: the disk is full, a row or all images are not available, or `out` is not empty
            by the end and `overwrite` is not set.
    """
    columns, dropped = _choose_columns(selection)
    kinds: Counter[str] = Counter()
    samples = _iterate_samples(selection, columns, pictures)
    with replace_folder(out, only_empty=not overwrite) as folder:
        numbered = enumerate(samples)
        for number, part in groupby(numbered, key=lambda sample: sample[0] // shard_size):
            with tarfile.open(
                folder / f"{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT
            ) as tar:
                for _, (key, kind, files) in part:
                    kinds[kind] += 1
                    for ending, content in files.items():
                        _add_file(tar, f"{key}.{ending}", content)
        pictures.refuse_none()
    return TarResult(kinds.total(), dict(kinds.most_common()), dropped)


def make_key(sample_id: str) -> str:
    """The sample_id if it is a safe name, else a hash of it."""
    if _SAFE_KEY.fullmatch(sample_id):
        return sample_id
    return hashlib.sha256(sample_id.encode()).hexdigest()[:32]


def _iterate_samples(
    selection: Selection, columns: list[str], pictures: Pictures
) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """The key of each available image, its format, and its files by extension."""
    keys: set[str] = set()
    for row in (row for table in selection.iterate() for row in table.to_pylist()):
        key = make_key(row["sample_id"])
        if key in keys:
            raise ValueError(f"two samples have the key {key}")
        keys.add(key)
        content = pictures.read(row)
        if content is None:
            continue
        kind = name_kind(content, file_name=row["file_name"])
        about = json.dumps({name: _fill(name, row[name]) for name in columns})
        yield key, kind, {kind: content, "json": about.encode(), "txt": row["caption"].encode()}


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # No timestamps or users: a TarInfo has 0 for all of these.
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _choose_columns(selection: Selection) -> tuple[list[str], tuple[str, ...]]:
    """The columns that any row has, and the numeric columns that only some rows have."""
    nulls: Counter[str] = Counter()
    total = 0
    for table in selection.iterate():
        total += table.num_rows
        for name in table.column_names:
            nulls[name] += table.column(name).null_count
    some = [name for name, count in nulls.items() if count < total]
    dropped = tuple(name for name in some if nulls[name] and not _has_filler(name))
    return [name for name in some if name not in dropped], dropped


def _has_filler(name: str) -> bool:
    kind = CAPTION_SCHEMA.field(name).type if name in CAPTION_SCHEMA.names else pa.null()
    return pa.types.is_string(kind) or pa.types.is_list(kind)


def _fill(name: str, value: Any) -> Any:
    if name == "flags":
        return " ".join(value or ())
    if value is None:
        return [] if pa.types.is_list(CAPTION_SCHEMA.field(name).type) else ""
    return value
