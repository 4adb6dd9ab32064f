"""Texts in sidecar files: `NAME.txt` for `NAME.jpg`."""

from __future__ import annotations

from pathlib import Path

from captioner.imports.texts import TextSource, make_text
from data.errors import UserError
from data.files.formats import IMAGE_SUFFIXES
from data.files.text_files import read_text
from data.matching import list_some, tie
from data.sources.files import walk_files


def read_sidecars(folder: Path, *, images: Path | None) -> TextSource:
    """Read the text files below `folder`, each matched to the image of its name below `images`.

    Args:
        images: by default the folder itself.

    Raises:
        UserError: a folder cannot be read, no text has an image, or several images have one text.
    """
    root = images or folder
    named: dict[str, list[str]] = {}
    for image in _list_files(root):
        if image.suffix.lower() in IMAGE_SUFFIXES:
            named.setdefault(image.with_suffix("").as_posix(), []).append(image.as_posix())
    files = [path for path in _list_files(folder) if path.suffix.lower() == ".txt"]
    ties = tie([path.with_suffix("").as_posix() for path in files], list(named))
    images_of = list(named.values())
    texts, silent = [], []
    taken: dict[str, Path] = {}
    for place, row in zip(files, ties.rows, strict=True):
        path = folder / place
        if row is None:
            silent.append(place.as_posix())
            continue
        found = images_of[row]
        if len(found) > 1:
            raise UserError(
                f"{path} could be of {' or '.join(found)}: each text needs exactly one image"
            )
        if (other := taken.setdefault(found[0], path)) != path:
            raise UserError(f"{other} and {path} are of one image, {found[0]}: keep one")
        # Editors end a file with a line end, which is not part of the text.
        text = read_text(path).rstrip("\r\n")
        texts.append(make_text(str(path), text, file_name=found[0]))
    if not texts:
        raise UserError(f"no .txt file in {folder} has an image with the same name in {root}")
    notes = [f"{len(silent):,} .txt files have no image ({list_some(silent)}): left out"]
    told = (*ties.notes, *(notes if silent else ()))
    return TextSource(folder.resolve().name, "txt", texts, notes=told)


def _list_files(folder: Path) -> list[Path]:
    """All files that `d2s caption` would consider, in order, relative to the folder."""
    return sorted(map(Path, walk_files(folder)))
