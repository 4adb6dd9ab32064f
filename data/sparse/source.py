"""What a caption source is: images with what people wrote of them, and the split of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CaptionedImage:
    """One image of a caption source; `file_name` as the source gives it, "/" between its parts.

    `dense` is set where the source has dense text beside the captions, and `caption_ids`, one for
    each caption, where the source gives its captions ids; it is empty otherwise.
    """

    file_name: str
    captions: tuple[str, ...]
    split: str
    image_id: str | None = None
    dense: str | None = None
    caption_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaptionSource:
    """A read source. `notes` says what a reader should know, such as how splits were made.

    `lack` is why an image without captions cannot be used.
    """

    path: Path
    kind: str  # karpathy | coco | flickr | released | texts
    images: tuple[CaptionedImage, ...]
    notes: tuple[str, ...] = field(default=())
    lack: str = "no caption"

    @property
    def dataset(self) -> str:
        """What the data set is called: `dataset_coco.json` -> coco, else the name of the folder."""
        if self.kind == "karpathy":
            return self.path.stem.removeprefix("dataset_")
        folder = self.path if self.path.is_dir() else self.path.parent
        folder = folder.resolve()
        return (folder.parent if folder.name == "annotations" else folder).name

    @property
    def left_out(self) -> tuple[str, ...]:
        """The notes that say which captions of the file are not in it."""
        return tuple(note for note in self.notes if note.endswith("left out"))

    def counts(self) -> dict[str, int]:
        """Images per split."""
        found = Counter(image.split for image in self.images)
        return {split: found[split] for split in SPLITS}
