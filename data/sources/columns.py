"""Choosing a table's columns of images, names, ids and human captions."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data.errors import UserError
from data.matching import name_id
from data.sources.archive import is_own
from data.sources.record import ImageRecord, make_sample_id

# Names used by image-text data sets of the Hub, the most specific first.
_USUAL = {
    "image": ("image", "jpg", "img", "image_bytes", "bytes"),
    "name": ("file_name", "filename", "image_name", "path"),
    "id": ("image_id", "cocoid", "imgid", "img_id", "id"),
    "captions": ("captions", "sentences_raw", "sentences", "caption", "text"),
    "split": ("split",),
}
# The required kind of a column, by option.
_FITTING = {
    "image": {"image", "bytes", "text"},
    "id": {"text", "number"},
    "captions": {"text", "texts"},
}
# Instead of a column of ids: rows are identified by name or position.
NO_IDS = "none"
_NEEDED = {"image": "images", "id": "texts or numbers", "captions": "texts, or lists of texts"}


@dataclass(frozen=True)
class Columns:
    """Names of columns; None if there is none, or if it has yet to be chosen."""

    image: str | None = None
    name: str | None = None
    id: str | None = None
    captions: str | None = None
    split: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """For the record of a source."""
        return asdict(self)

    def named(self) -> Iterator[str]:
        """The columns that are set."""
        return (name for name in asdict(self).values() if name is not None)


def choose_columns(where: str, kinds: Mapping[str, str], wanted: Columns) -> Columns:
    """The requested columns, and the usual names for the others.

    Args:
        where: the table, for messages.
        kinds: column -> image, bytes, text, texts, number or other.

    Raises:
        UserError: a requested column is missing or has the wrong kind, or no column contains
            images.
    """
    nameless = wanted.id == NO_IDS and NO_IDS not in kinds
    for role, name in wanted.to_dict().items():
        if name is None or (role == "id" and nameless):
            continue
        if name not in kinds:
            raise UserError(f"{where} has no column {name!r}; it has {', '.join(kinds)}")
        if role in _FITTING and kinds[name] not in _FITTING[role]:
            option = "caption" if role == "captions" else role
            raise UserError(
                f"the column {name!r} of {where} does not contain {_NEEDED[role]}: specify another "
                f"--{option}-column, or omit it"
            )
    image = wanted.image or _first_image(kinds)
    if image is None:
        raise UserError(
            f"{where} has no image column (its columns are {', '.join(kinds)}): specify it with "
            "--image-column"
        )

    # The other texts of an export of d2s are the captioner's.
    usual = _USUAL | ({"captions": ("captions",)} if is_own(kinds) else {})

    def choose(role: str, fitting: set[str]) -> str | None:
        asked: str | None = getattr(wanted, role)
        found = (n for n in usual[role] if kinds.get(n) in fitting and n != image)
        return asked or next(found, None)

    return Columns(
        image=image,
        name=choose("name", {"text"}),
        id=None if nameless else choose("id", _FITTING["id"]),
        captions=choose("captions", _FITTING["captions"]),
        split=choose("split", {"text"}),
    )


def make_record(
    columns: Columns, values: Mapping[str, Any], *, locator: bytes, place: str, by_place: bool
) -> ImageRecord:
    """The record of one row. `place` is the name if no column is, or part of it if `by_place`."""
    known = {role: values.get(name) for role, name in columns.to_dict().items() if name}
    cell = values.get(columns.image or "")
    path = cell.get("path") if isinstance(cell, Mapping) else None
    image_id = name_id(known.get("id"))
    name = known.get("name") or path
    if by_place or not name:
        name = f"{place}/{str(name).rsplit('/', 1)[-1]}" if name else place
    # The id if there is one: positions change when a table is rewritten.
    key = f"id:{image_id}" if image_id is not None else str(name)
    return ImageRecord(
        sample_id=make_sample_id(key.encode("utf-8", "surrogatepass")),
        file_name=str(name),
        locator=locator,
        image_id=image_id,
        split=known.get("split"),
        captions=_read_captions(known.get("captions")),
    )


def _read_captions(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(text for text in value if isinstance(text, str)) or None
    return None


def _first_image(kinds: Mapping[str, str]) -> str | None:
    images = [name for name, kind in kinds.items() if kind == "image"]
    if images:
        return images[0]
    return next((name for name in _USUAL["image"] if kinds.get(name) in {"bytes", "text"}), None)
