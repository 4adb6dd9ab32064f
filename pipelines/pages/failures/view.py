"""The content of the page as plain records, the only input of the template."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.pages.kit.thumbnails import Picture


@dataclass(frozen=True)
class FoundImage:
    """An image found by a caption; `right` if it is the caption's own."""

    picture: Picture
    score: float
    right: bool


@dataclass(frozen=True)
class FoundText:
    """A caption found by an image; `right` if it is one of the image's own."""

    text: str
    score: float
    right: bool


@dataclass(frozen=True)
class FailedCaption:
    """A caption that does not find its own image first; that image's `place` and `score`."""

    id: str
    text: str
    own: Picture
    place: int
    score: float
    found: tuple[FoundImage, ...]


@dataclass(frozen=True)
class FailedImage:
    """An image that finds none of its own captions first. `place` of the best one, from 1."""

    id: str
    own: Picture
    captions: tuple[FoundText, ...]
    place: int
    found: tuple[FoundText, ...]


@dataclass(frozen=True)
class Direction:
    """One direction: the numbers of queries, failures and items."""

    queries: int
    failed: int
    items: int

    @property
    def share(self) -> float:
        """The share of failing queries, in percent."""
        return 100 * self.failed / self.queries


@dataclass(frozen=True)
class FailurePage:
    """Everything on the page; `notes` tell the reader what is missing."""

    model: str
    split: str
    px: int
    rsum: float
    t2i: Direction
    i2t: Direction
    failed_captions: tuple[FailedCaption, ...]
    failed_images: tuple[FailedImage, ...]
    notes: tuple[str, ...]
