"""Matching imported texts to images: in the order of the ids, with file names and captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from captioner.imports.texts import ImportedText, TextSource, normalise_file_name
from captioner.store.journal import Outcome
from data.errors import UserError
from data.matching import find_rows, list_some, look_up, refuse_twice, tie
from data.sources import ImageRecord
from data.sources.record import make_sample_id
from data.sparse.captions import read_captions
from data.sparse.released import ImageIds, read_caption_lines
from data.sparse.source import CaptionSource

RELEASED_CAPTIONS = "_caps.txt"


@dataclass(frozen=True)
class Arrangement:
    """The images of an imported run in order, their outcomes, and notes for the user.

    `outcomes` is by sample_id.
    """

    images: Sequence[ImageRecord]
    outcomes: Mapping[str, Outcome]
    notes: tuple[str, ...]


def arrange_texts(
    source: TextSource,
    *,
    ids: ImageIds | None,
    mapping: Mapping[str, str],
    captions: Path | None,
    images: Path | None,
    split: str | None,
    limit: int | None,
) -> Arrangement:
    """One record per text, in the order of `ids`, or else of the source.

    Args:
        mapping: file name by image id, for texts without a file name.
        captions: human captions: the released code's lines, or any source of data.sparse.captions.
        images: the folder to which absolute file names are made relative.
        split: only texts of this split; if no text has one, all get it. A data set of the Hub is
            already one split, so its rows keep theirs.
        limit: only the first so many.

    Raises:
        UserError: a text without a file name, one image twice, an id without a text, ...
    """
    unnamed = [text.image_id if text.file_name is None else None for text in source.texts]
    given, looked_up = look_up(unnamed, mapping)
    notes = [*source.notes, *looked_up]
    texts = [_name_file(text, n, images) for text, n in zip(source.texts, given, strict=True)]
    keys = [(text.file_name, text.image_id) for text in texts]
    refuse_twice([name for name, _ in keys], where=source.name)
    refuse_twice([name for _, name in keys], where=source.name)
    if ids is not None and not source.ordered:
        rows, found = find_rows(ids.ids, mapping, keys, where=source.name)
        notes += found
        if len(rows) < len(texts):
            notes.append(
                f"{len(texts) - len(rows):,} of {len(texts):,} texts belong to images that are not "
                f"in {ids.path.name}: left out"
            )
        texts = [replace(texts[r], image_id=i) for r, i in zip(rows, ids.ids, strict=True)]
    if captions is not None:
        texts, said = _add_captions(texts, captions, ids)
        notes += said
    if split is not None and source.format != "hub":
        texts, said = _select_split(texts, split, where=source.name)
        notes += said
    if not texts:
        raise UserError(f"{source.name} contains no text")
    texts = texts[:limit]
    records = [_make_image(text, split) for text in texts]
    outcomes = [_make_outcome(r, text) for r, text in zip(records, texts, strict=True)]
    return Arrangement(records, {o.sample_id: o for o in outcomes}, tuple(notes))


def _name_file(text: ImportedText, given: str | None, images: Path | None) -> ImportedText:
    name = given if text.file_name is None else text.file_name
    # As `d2s caption` names the images of a list of URLs.
    name = name or text.image_url
    if name is None and text.image_id is None:
        raise UserError(f"{text.where} has neither a file name nor an id: take it out")
    if name is None:
        raise UserError(
            f"{text.where}: the file name of the image {text.image_id!r} is unknown: use "
            "--id-mapping with a JSON file that maps ids to file names"
        )
    return replace(text, file_name=normalise_file_name(name, images=images, where=text.where))


def _add_captions(
    texts: list[ImportedText], path: Path, ids: ImageIds | None
) -> tuple[list[ImportedText], list[str]]:
    if path.name.endswith(RELEASED_CAPTIONS):
        if ids is None:
            raise UserError(f"{path} has no ids: specify the ids file beside it with --ids")
        lines = read_caption_lines(path, images=len(ids.ids))
        pairs = zip(texts, lines, strict=True)
        note = f"{len(lines[0])} captions per image from {path.name}, by line"
        return [replace(text, captions=of_image) for text, of_image in pairs], [note]
    source = read_captions(path)
    ties = tie([text.file_name for text in texts], [image.file_name for image in source.images])
    tied = list(zip(texts, ties.rows, strict=True))
    missing = [text.file_name or "" for text, row in tied if row is None]
    if len(missing) == len(texts):
        raise UserError(
            f"{path} has captions for none of the images (wanted {list_some(missing)}; found "
            f"{list_some([image.file_name for image in source.images])}): folders must match"
        )
    notes = [*source.left_out, *(f"captions: {note}" for note in ties.notes)]
    if missing:
        found = list_some(missing)
        notes.append(f"{path.name} has no captions for {len(missing):,} images ({found})")
    return [text if row is None else _caption(text, source, row) for text, row in tied], notes


def _select_split(
    texts: list[ImportedText], split: str, *, where: str
) -> tuple[list[ImportedText], list[str]]:
    names = sorted({text.split for text in texts if text.split is not None})
    if not names:
        return texts, []
    if split not in names:
        raise UserError(f"{where} has no split {split!r}, but {list_some(names)}")
    found = [text for text in texts if text.split == split]
    left = len(texts) - len(found)
    return found, [f"{left:,} of {len(texts):,} texts are not of the split {split}: left out"]


def _caption(text: ImportedText, source: CaptionSource, row: int) -> ImportedText:
    image = source.images[row]
    # The others have no splits of their own; theirs may be random.
    split = image.split if source.kind in ("karpathy", "released") else None
    return replace(text, captions=image.captions or None, split=text.split or split)


def _make_image(text: ImportedText, split: str | None) -> ImageRecord:
    assert text.file_name is not None
    return ImageRecord(
        sample_id=make_sample_id(text.file_name.encode()),
        file_name=text.file_name,
        image_id=text.image_id,
        split=text.split or split,
        image_url=text.image_url,
        captions=text.captions,
    )


def _make_outcome(image: ImageRecord, text: ImportedText) -> Outcome:
    return Outcome(
        sample_id=image.sample_id, status=text.status, caption=text.text, error=text.error
    )
