"""The content of a file of dense text, before texts are matched to images."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.files.text_files import replace_halves
from data.images import Status
from data.sources.download import is_url


@dataclass(frozen=True, slots=True)
class ImportedText:
    """One text. `where` is its place in the file, for messages; `text` is None if there is none.

    A text without an id is matched by its file name, one without a file name by its id.
    """

    where: str
    text: str | None
    image_id: str | None = None
    file_name: str | None = None
    split: str | None = None
    image_url: str | None = None
    captions: tuple[str, ...] | None = None
    status: str = str(Status.OK)
    error: str | None = None


@dataclass(frozen=True)
class TextSource:
    """A read source. `models` are the model names in the source; `notes` are for the user.

    `ordered` means that the texts are already in the order of the ids file: they have no other link
    to their images.
    """

    name: str
    format: str
    texts: Sequence[ImportedText]
    models: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    ordered: bool = False
    sha256: str | None = None


def make_text(where: str, text: str | None, **known: object) -> ImportedText:
    """A text in a form that can be stored: lone surrogates become `?`."""
    text = None if text is None else replace_halves(text)
    return ImportedText(where, text, **known)  # type: ignore[arg-type]


def normalise_file_name(name: str, *, images: Path | None, where: str) -> str:
    """The name relative to the image folder.

    Raises:
        UserError: it leads out of the folder, so that it could point to any file.
    """
    if is_url(name):
        return name
    path = posixpath.normpath(name)
    if posixpath.isabs(path) and images is not None:
        for folder in (images.absolute(), images.resolve()):
            if Path(path).is_relative_to(folder):
                path = Path(path).relative_to(folder).as_posix()
    if posixpath.isabs(path) or path.split("/")[0] in ("..", ".") or "\0" in path:
        hint = "" if images is not None else ": specify the image folder with --images"
        raise UserError(f"{where}: the file name {name!r} leads out of the image folder{hint}")
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: the file name {name!r} is not valid text") from error
    return path
