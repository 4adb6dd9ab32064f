"""Caption files in JSON: Karpathy's, COCO's, and lists of images as other programs write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.text_files import read_json, replace_halves
from data.matching import tie
from data.sparse.source import CaptionedImage, CaptionSource, split_all
from data.sparse.values import (
    clean_caption,
    count_left_out,
    get_id,
    get_value,
    name_split,
    part_blank,
)

# Keys of the image in the entries of a list, the most specific first.
_NAMES = ("file_name", "filename", "image", "image_name", "image_path", "img_path", "path")
_KNOWN = (
    "Karpathy's (images with sentences), COCO's (images and annotations), or a list of entries "
    "with an image, a caption and an image_id"
)


def read_caption_json(path: Path, *, whole: bool = False) -> CaptionSource:
    """Captions in JSON; `whole` includes images that have none.

    Raises:
        UserError: it cannot be read, or is of an unknown kind.
    """
    data = read_json(path)
    if isinstance(data, list):
        return _read_entries(path, data)
    if isinstance(data, dict) and isinstance(data.get("images"), list):
        first = next(iter(data["images"]), None)
        bare = isinstance(first, dict) and "file_name" in first and "sentences" not in first
        if "annotations" in data or (whole and bare):
            found = read_coco(path, {"annotations": [], **data}, split="", whole=whole)
            return split_all(CaptionSource(path, "coco", *found))
        return _read_karpathy(path, data["images"])
    raise UserError(f"{path} is JSON of no known kind: give {_KNOWN}")


def _read_entries(path: Path, entries: list[Any]) -> CaptionSource:
    """A list of objects, as in BLIP's captions and LLaVA's conversations; images may repeat."""
    said: dict[str, list[str]] = {}
    ids: dict[str, set[str | None]] = {}
    splits: dict[str, str] = {}
    nameless = blank = 0
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is {entry!r:.40} and no object: give {_KNOWN}")
        name = next((entry[key] for key in _NAMES if isinstance(entry.get(key), str)), "")
        if not name:
            nameless += 1
            continue
        name = replace_halves(name)
        captions = _list_captions(where, entry)
        blank += captions.count("")
        said.setdefault(name, []).extend(filter(None, captions))
        given = entry.get("image_id", entry.get("id"))
        ids.setdefault(name, set()).add(get_id(where, given))
        if "split" in entry:
            split = name_split(where, get_value(where, entry, "split", str))
            if splits.setdefault(name, split) != split:
                raise UserError(f"{where} has {name} in a different split than before")
    if not said:
        raise UserError(
            f"{path} has no image file in its {len(entries):,} entries (looked for "
            f"{', '.join(_NAMES)}): if they have addresses, give those as a list, one a line (.txt)"
        )
    images = tuple(
        CaptionedImage(
            # If ids differ, they are ids of the entries.
            name, tuple(own), splits.get(name, ""), ids[name].pop() if len(ids[name]) == 1 else None
        )
        for name, own in said.items()
    )  # fmt: skip
    notes = (
        *count_left_out(path, nameless, "entries have no image file"),
        *count_left_out(path, blank, "captions are blank"),
    )
    source = CaptionSource(path, "entries", images, notes)
    return source if len(splits) == len(said) else split_all(source)


def _list_captions(where: str, entry: Mapping[str, Any]) -> list[str]:
    given = entry.get("caption", entry.get("captions"))
    listed = given if isinstance(given, list) else [] if given is None else [given]
    wrong = [one for one in listed if not isinstance(one, str)]
    if wrong:
        raise UserError(f"{where} has a caption that is not text: {wrong[0]!r:.80}")
    return [clean_caption(one) for one in listed]


def _read_karpathy(path: Path, rows: list[Any]) -> CaptionSource:
    images = []
    blank = 0
    for number, row in enumerate(rows):
        where = f"{path}: image {number}"
        folder = get_value(where, row, "filepath", str, default="")
        name = get_value(where, row, "filename", str)
        sentences = get_value(where, row, "sentences", list)
        said = []
        for place, one in enumerate(sentences):
            caption = get_value(f"{where}, sentence {place}", one, "raw", str)
            said.append((clean_caption(caption), one.get("sentid")))
        captions, caption_ids = part_blank(said)
        blank += len(said) - len(captions)
        images.append(
            CaptionedImage(
                file_name=replace_halves(f"{folder}/{name}" if folder else name),
                captions=captions,
                split=name_split(where, get_value(where, row, "split", str)),
                image_id=get_id(where, row.get("cocoid", row.get("imgid"))),
                caption_ids=caption_ids,
            )
        )
    notes = count_left_out(path, blank, "captions are blank")
    return CaptionSource(path, "karpathy", tuple(images), notes)


def read_coco(
    path: Path, data: Mapping[str, Any], *, split: str, whole: bool = False
) -> tuple[tuple[CaptionedImage, ...], tuple[str, ...]]:
    """The captioned images, or all of them if `whole`, and notes."""
    names: dict[str | None, str] = {}
    for number, image in enumerate(get_value(str(path), data, "images", list)):
        where = f"{path}: image {number}"
        name = get_value(where, image, "file_name", str)
        key = get_id(where, get_value(where, image, "id", object))
        if key in names:
            raise UserError(
                f"{where} has the same id as another, {key}: it is unclear whose captions they are"
            )
        names[key] = replace_halves(name)
    said: dict[str | None, list[tuple[str, Any]]] = {}
    notes = get_value(str(path), data, "annotations", list)
    if notes and not any(isinstance(note, dict) and "caption" in note for note in notes):
        if not whole:
            raise UserError(
                f"{path} has annotations of another kind and no captions: give {_KNOWN}"
            )
        notes = []
    for number, note in enumerate(notes):
        own = note.get("id") if isinstance(note, dict) else None
        where = f"{path}: annotation {number if own is None else f'with the id {own}'}"
        caption = clean_caption(get_value(where, note, "caption", str))
        image_id = get_id(where, get_value(where, note, "image_id", object))
        said.setdefault(image_id, []).append((caption, note.get("id")))
    ties, ids = tie(list(said), list(names)), list(names)
    pairs = zip(said, ties.rows, strict=True)
    mine = {ids[row]: said[key] for key, row in pairs if row is not None}
    images = []
    for key, name in names.items():
        if key in mine or whole:
            captions, caption_ids = part_blank(mine.get(key, []))
            images.append(CaptionedImage(name, captions, split, key, caption_ids=caption_ids))
    given, tied = sum(map(len, said.values())), sum(map(len, mine.values()))
    blank = tied - sum(len(image.captions) for image in images)
    told = (
        *count_left_out(path, given - tied, "captions belong to images that are not listed"),
        *count_left_out(path, blank, "captions are blank"),
    )
    return tuple(images), (*told, *ties.notes)
