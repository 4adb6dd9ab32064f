"""A caption source: images with human captions and splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CaptionedImage:
    """One image of a caption source; `file_name` as the source gives it, "/" between its parts.

    `dense` is set if the source also has dense text. `caption_ids` has one id per caption, or is
    empty if captions have no ids.
    """

    file_name: str
    captions: tuple[str, ...]
    split: str
    image_id: str | None = None
    dense: str | None = None
    caption_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaptionSource:
    """A read source. `notes` tell the user, for example, how splits were made.

    `lack` is the reason why an image without captions cannot be used.
    """

    path: Path
    kind: str  # karpathy | coco | entries | flickr | released | texts
    images: tuple[CaptionedImage, ...]
    notes: tuple[str, ...] = field(default=())
    lack: str = "no caption"

    @property
    def dataset(self) -> str:
        """The name of the data set: `dataset_coco.json` -> coco, else the name of the folder."""
        if self.kind == "karpathy":
            return self.path.stem.removeprefix("dataset_")
        folder = self.path if self.path.is_dir() else self.path.parent
        folder = folder.resolve()
        return (folder.parent if folder.name == "annotations" else folder).name

    @property
    def left_out(self) -> tuple[str, ...]:
        """The notes that say which captions of the file were left out."""
        return tuple(note for note in self.notes if note.endswith("left out"))

    def counts(self) -> dict[str, int]:
        """Images per split."""
        found = Counter(image.split for image in self.images)
        return {split: found[split] for split in SPLITS}


def split_by_hash(file_name: str, *, shares: tuple[float, float] = (0.1, 0.1)) -> str:
    """A split that only depends on the file name: the same on every machine and in every order.

    `shares` are those of val and test; the rest is train.
    """
    digest = hashlib.sha256(file_name.encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    return "val" if draw < shares[0] else "test" if draw < sum(shares) else "train"


def split_all(source: CaptionSource) -> CaptionSource:
    """Assign a split to each image by `split_by_hash`, and add a note."""
    images = tuple(replace(i, split=split_by_hash(i.file_name)) for i in source.images)
    note = "no splits in the source: 80/10/10 train/val/test by a hash of the file name"
    return replace(source, images=images, notes=(*source.notes, note))
