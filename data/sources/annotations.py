"""Images of an annotation file (COCO's or Karpathy's JSON): its order, ids, splits and captions."""

import os
from pathlib import Path

from data.errors import UserError
from data.sources.record import ImageRecord, Listing, Source, keep_typed, record_file
from data.sources.records import Records
from data.sparse.captions import read_captions
from data.sparse.source import CaptionedImage


def open_annotations(path: Path, *, root: Path | None, split: str | None) -> Source:
    """A source of the images that `path` describes; they are in `root`, by default its folder."""
    folder = keep_typed(root or path.parent)
    if not folder.is_dir():
        raise UserError(f"the image folder {folder} does not exist: specify it with --image-root")
    options = {"annotations": str(keep_typed(path)), "split": split}
    return Source("files", str(folder), options)


def list_annotations(source: Source) -> Listing:
    """One record per described image, in the file's order; missing files are listed too.

    Raises:
        UserError: the annotations cannot be read, name no image of the split, name files outside
            the images' folder, or none of the files is there.
    """
    path, split = Path(source.options["annotations"]), source.options["split"]
    found = read_captions(path, whole=True)
    images = [image for image in found.images if split in (None, image.split)]
    if not images:
        raise UserError(f"{path} has no image in the split {split}: it has {found.counts()}")
    records = Records.collect(_make_record(path, image) for image in images)
    root = Path(source.root)
    if not any(os.path.lexists(record.locate(root)) for record in records):
        raise UserError(
            f"none of the {len(records):,} images of {path} is in {root} (for example "
            f"{records[0].file_name}): specify their folder with --image-root"
        )
    return Listing(records, notes=found.notes)


def _make_record(path: Path, image: CaptionedImage) -> ImageRecord:
    name = os.path.normpath(image.file_name)
    if name.startswith(("/", "../")) or name == "..":
        raise UserError(f"{path} names {image.file_name!r}, which is outside the images' folder")
    return record_file(
        name, image_id=image.image_id, split=image.split or None, captions=image.captions
    )
