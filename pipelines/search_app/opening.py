"""Building a collection from the arguments of a command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from data.errors import UsageError
from data.escaping import shown
from pipelines.search_app.collection import Collection
from pipelines.search_app.pictures import SourceThumbnails, Thumbnails
from pipelines.search_app.texts import collect_texts, find_text_files
from vse.search.index import Index
from vse.search.results import load_indexed_model


def open_collection(
    paths: Sequence[Path],
    *,
    model: str | None,
    images: Path | None,
    dense: Path | None,
    captions: Path | None,
    device: str | None,
    say: Callable[[str], None],
) -> Collection:
    """Open the indexes, load their model, and find pictures and texts.

    Args:
        model: by default the one named by the first index.
        images: the current location of the images; by default the recorded one.
        say: called with what was found.

    Raises:
        UserError: an index is damaged or from another model, a text file cannot be read, or
            `images` is given for indexes without images.
    """
    indexes = [Index(path) for path in paths]
    pictures: dict[int, Thumbnails] = {}
    for number, index in enumerate(indexes):
        say(f"index     {shown(index.path)}: {len(index):,} {index.info.kind}")
        if index.info.kind == "images":
            pictures[number] = thumbnails = SourceThumbnails(index, images=images)
            if thumbnails.missing is not None:
                say(f"note      no pictures: {thumbnails.missing}")
    if images is not None and not pictures:
        raise UsageError("--images requires an index of images")
    for index in indexes:
        if dense is None or captions is None:
            dense, captions = find_text_files(index, dense=dense, captions=captions, images=images)
    for label, place in (("dense", dense), ("captions", captions)):
        say(f"{label:<9} {'none' if place is None else shown(place)}")
    texts = collect_texts(indexes, dense=dense, captions=captions)
    for note in texts.notes:
        say(f"note      {note}")
    return Collection(
        load_indexed_model(indexes, model, device=device),
        indexes,
        titles=[shown(index.path) for index in indexes],
        pictures=pictures,
        texts=texts,
    )
