"""Checks of output paths before the work begins; files not written by d2s are not replaced."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from data.errors import UserError

# The files of a run, relative to the folder with its record.
_RECORDS = {
    "run.json": re.compile(
        r"run\.json|plan\.parquet|receipts\.jsonl|scores\S*\.parquet|.+-\d{5}-of-\d{5}\.parquet"
        r"|(journal|leases|scores\.parts)(/.*)?|\.\S*lock"
    ),
    "config.json": re.compile(
        r"(config|preprocessing)\.json|model\.safetensors|(log|left_out)\.jsonl"
        r"|(state|tokenizer)(/.*)?|\.lock"
    ),
}
# A mark is at the beginning of a file or, in Parquet, at its end.
_MARK_BYTES = 1 << 16
# The limit of common file systems.
_LONGEST_NAME = 255
_DEVICES = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))
_OVERWRITE = "d2s.overwrite"


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[_OVERWRITE] = value


overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    # Read before the files that it describes.
    is_eager=True,
    expose_value=False,
    callback=_remember,
    help="Replace files that this command did not write.",
)


class Output(click.Path):
    """A file or folder to write, checked before the work begins.

    With `mark`, an existing file is replaced if it contains the mark, or with --overwrite.
    """

    def __init__(
        self, *, file_okay: bool = True, dir_okay: bool = True, mark: bytes | None = None
    ) -> None:
        super().__init__(file_okay=file_okay, dir_okay=dir_okay, path_type=Path)
        self.mark = mark

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        refuse_records(path)
        check_writable(path)
        if self.mark:
            refuse_foreign(path, mark=self.mark, ctx=ctx)
        return path


OUTPUT_FOLDER = Output(file_okay=False)


def refuse_foreign(
    path: Path, *, mark: bytes | None = None, ctx: click.Context | None = None
) -> None:
    """UserError if a file exists without `mark`, unless --overwrite is given."""
    ctx = ctx or click.get_current_context(silent=True)
    forced = ctx is not None and ctx.meta.get(_OVERWRITE)
    if not forced and path.exists() and not (mark and _has_mark(path, mark)):
        raise UserError(
            f"{path} already exists and was not written by this command: use another path, or "
            "--overwrite to replace it"
        )


def refuse_records(path: Path) -> None:
    """UserError if a file is part of a run's records."""
    place = path.absolute()
    for folder in (place.parent, place.parent.parent):
        for record, names in _RECORDS.items():
            inside = place.relative_to(folder).as_posix()
            if names.fullmatch(inside) and (folder / record).is_file():
                raise UserError(f"{path} is a record of the run in {folder}: use another path")


def check_writable(path: Path) -> None:
    """UserError if a file, or a folder and its contents, cannot be written."""
    place = path.absolute()
    for part in place.parts:
        if len(os.fsencode(part)) > _LONGEST_NAME:
            raise UserError(f"the name {part[:40]}... is too long: use a shorter one")
    special = place.exists() and not (place.is_file() or place.is_dir())
    # /dev/stdout can be a link to a file: the link itself would be replaced.
    if special or place.parent in _DEVICES:
        raise UserError(f"{path} is a device or a pipe, not a file")
    nearest = place if place.is_dir() else place.parent
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"cannot write {path}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: the folder {nearest} is read-only; use another path")


def _has_mark(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        begins = file.read(_MARK_BYTES)
        file.seek(max(0, path.stat().st_size - _MARK_BYTES))
        return mark in begins or mark in file.read()
