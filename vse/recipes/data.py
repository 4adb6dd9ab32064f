"""Settings of the samples."""

from __future__ import annotations

from dataclasses import dataclass

from vse.recipes.checks import one_of, require


@dataclass(frozen=True)
class DataConfig:
    """What a sample is and how it is augmented."""

    items: str = "captions"  # an epoch counts captions, or images (one caption drawn each time)
    word_mask: float = 0.2  # share of basic words masked, replaced or deleted in training
    crop_min: float = 0.6  # side ratio of the random crop ~ U(crop_min, 1)
    flip: float = 0.5  # how often an image is mirrored
    cache_images: bool = False  # decode and resize once into one uint8 array on disk
    workers: int = 0  # loader processes; 0 = in the training process
    max_missing: float = 0.1  # share of a split's images that may lack a file or dense text
    captions_per_image: int | None = None  # only the first so many; None = all
    select_split: str = "val"  # val | test (as released): whose rSum picks the best epoch
    sentences: int | None = None  # stage 1: a step reads 1 to so many of a dense text's; None = all
    bucket: int | None = None  # so many batches are sorted by text length together; None = none are
    texts_per_step: int = 1  # of each image, all positives: captions, or in stage 1 drawings

    def __post_init__(self) -> None:
        one_of("data.items", self.items, ("captions", "images"))
        one_of("data.select_split", self.select_split, ("val", "test"))
        require(0 <= self.word_mask <= 1, "data.word_mask must lie in [0, 1]")
        require(0 < self.crop_min <= 1, "data.crop_min must lie in (0, 1]")
        require(0 <= self.max_missing <= 1, "data.max_missing must lie in [0, 1]")
        cut = self.captions_per_image
        require(cut is None or cut > 0, "data.captions_per_image must be positive")
        most = self.sentences
        require(most is None or most > 0, "data.sentences must be positive")
        require(self.bucket is None or self.bucket > 1, "data.bucket must be at least 2")
        require(self.texts_per_step > 0, "data.texts_per_step must be positive")
