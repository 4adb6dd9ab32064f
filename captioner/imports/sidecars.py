"""Texts that lie beside their images: `NAME.txt` for `NAME.jpg`."""

from __future__ import annotations

from pathlib import Path

from captioner.imports.texts import TextSource, make_text
from data.errors import UserError
from data.files.formats import IMAGE_SUFFIXES
from data.files.text_files import read_text
from data.matching import list_some


def read_sidecars(folder: Path, *, images: Path | None) -> TextSource:
    """The text files below `folder`, each tied to the one image of its name below `images`.

    Args:
        images: by default the folder itself.

    Raises:
        UserError: no text has an image, or several images have one text.
    """
    root = images or folder
    named: dict[Path, list[str]] = {}
    for image in sorted(root.rglob("*")):
        if image.suffix.lower() in IMAGE_SUFFIXES:
            name = image.relative_to(root)
            named.setdefault(name.with_suffix(".txt"), []).append(name.as_posix())
    texts, silent = [], []
    for path in sorted(folder.rglob("*.txt")):
        place = path.relative_to(folder)
        found = named.get(place, [])
        if len(found) > 1:
            raise UserError(
                f"{path} could be of {' or '.join(found)}: each text needs exactly one image"
            )
        if found:
            # Editors end a file with a line end, which is none of the text's.
            text = read_text(path).rstrip("\r\n")
            texts.append(make_text(str(path), text, file_name=found[0]))
        else:
            silent.append(place.as_posix())
    if not texts:
        raise UserError(f"no .txt file in {folder} has an image with the same name in {root}")
    notes = [f"{len(silent):,} .txt files have no image ({list_some(silent)}): left out"]
    return TextSource(folder.resolve().name, "txt", texts, notes=tuple(notes if silent else ()))
