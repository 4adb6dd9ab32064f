"""Choosing a table's columns of texts, image ids and file names, and reading rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from captioner.imports.texts import ImportedText, make_text
from data.errors import UserError
from data.images import Status
from data.matching import name_id
from data.tables.rows import CsvRow

# Names used by our exports and data sets of the Hub, the most specific first.
_USUAL = {
    "text": (
        *("caption", "text", "dense_caption", "long_caption", "description"),
        *("re_caption", "vlm_caption"),  # Recap-DataComp, PixelProse
    ),
    "id": ("image_id", "id", "cocoid", "imgid", "uid"),
    "file": ("file_name", "filename", "image_name", "image", "path", "filepath"),
    "captions": ("captions", "org_caption", "original_caption", "raw_caption"),
    "split": ("split",),
    "url": ("image_url", "url", "Image Path"),  # DreamLIP has the URL there
    "model": ("model_id", "model", "vlm_model"),
    "status": ("status",),
    "error": ("error",),
}
# Our CSV has it for open_clip; elsewhere a title is only the text if there is no other.
_TITLE = "title"
_OWN = {"filepath", _TITLE}
# Only these have an option; the others are used if present.
OPTIONS = {"text": "--text-column", "id": "--id-column", "file": "--file-column"}


@dataclass(frozen=True)
class TextColumns:
    """Names of columns; None if there is none, or if it has yet to be chosen.

    `file` can be a column of images, whose path is then the file name.
    """

    text: str | None = None
    id: str | None = None
    file: str | None = None
    captions: str | None = None
    split: str | None = None
    url: str | None = None
    model: str | None = None
    status: str | None = None
    error: str | None = None

    def named(self) -> dict[str, str]:
        """The columns that are set, by role."""
        return {role: name for role, name in asdict(self).items() if name is not None}


def choose_text_columns(where: str, names: Collection[str], wanted: TextColumns) -> TextColumns:
    """The requested columns, and the usual names for the others.

    Raises:
        UserError: a column is missing, none or several can be the text, or no column identifies the
            image.
    """
    listed = ", ".join(names)
    if len(set(names)) != len(names):
        raise UserError(f"{where} has two columns with the same name: {listed}")
    for role, name in wanted.named().items():
        if name not in names:
            raise UserError(f"{where} has no column {name!r} ({OPTIONS[role]}); it has {listed}")
    usual = {role: [n for n in known if n in names] for role, known in _USUAL.items()}
    if not usual["text"] and _TITLE in names:
        usual["text"] = [_TITLE]
    if wanted.text is None and len(usual["text"]) != 1:
        found = f"{len(usual['text'])} columns that could be the text" if usual["text"] else "none"
        raise UserError(
            f"{where} has the columns {listed}, {found}: specify the text column with --text-column"
        )
    chosen = {role: found[0] for role, found in usual.items() if found}
    columns = TextColumns(**{**chosen, **wanted.named()})
    if columns.id is None and columns.file is None and columns.url is None:
        raise UserError(
            f"{where} has no column of ids or file names (its columns are {listed}): specify one "
            "with --id-column or --file-column"
        )
    return columns


def read_row(where: str, values: Mapping[str, Any], columns: TextColumns) -> ImportedText:
    """Read one row. A null text becomes an error row: the source has the image but no text.

    Raises:
        UserError: a value has the wrong type.
    """
    cells = {role: values.get(name) for role, name in columns.named().items()}
    text, file = cells.pop("text"), cells.get("file")
    if isinstance(values, CsvRow) and (cells.get("status") == Status.OK or set(values) == _OWN):
        # A text can be a single word, such as `None`, and here it is not one that is missing.
        text = values.written[columns.named()["text"]]
    if isinstance(file, Mapping):
        file = file.get("path")
    for role, value in (("text", text), ("file", file)):
        if not isinstance(value, str | None):
            raise UserError(f"{where}: the column {getattr(columns, role)!r} contains no text")
    try:
        image_id = name_id(cells.get("id"))
    except ValueError as error:
        raise UserError(f"{where}: {error}: it is neither text nor a number") from error
    return make_text(
        where,
        text,
        image_id=image_id,
        file_name=file or None,
        split=_as_text(cells.get("split")),
        image_url=_as_text(cells.get("url")),
        captions=_as_texts(cells.get("captions")),
        **_why_none(text, cells),
    )


def _why_none(text: str | None, cells: Mapping[str, Any]) -> dict[str, str]:
    if text is not None:
        return {}
    status = cells.get("status")
    failed = status in set(Status) - {Status.OK}
    return {
        "status": str(status) if failed else str(Status.ENGINE_ERROR),
        "error": _as_text(cells.get("error")) or "the source has no text for it",
    }


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _as_texts(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,) if value else None
    if isinstance(value, list):
        return tuple(text for text in value if isinstance(text, str)) or None
    return None
