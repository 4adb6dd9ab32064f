"""Building the page of failing queries from an evaluated split, as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.escaping import show_name
from data.images import read_file
from pipelines.pages.failures.view import (
    Direction,
    FailedCaption,
    FailedImage,
    FailurePage,
    FoundImage,
    FoundText,
)
from pipelines.pages.kit.html import render_page
from pipelines.pages.kit.thumbnails import MAX_PICTURE_BYTES, Picture, ThumbnailBudget
from vse.evaluation.top_k import Failure, find_failures

if TYPE_CHECKING:
    from vse.evaluation.split import SplitResult

TOP = 5
SIDE = 240


def write_failures(page: FailurePage, path: Path) -> None:
    """Write the page to `path` atomically. Raises OSError."""
    render_page("pipelines.pages.failures", path, page=page)


def build_failures(
    result: SplitResult,
    summary: Mapping[str, Any],
    *,
    limit: int,
    picture_bytes: int = MAX_PICTURE_BYTES,
) -> FailurePage:
    """The worst `limit` queries in each direction, with their top hits.

    Args:
        result: with ranks that include the top hits.
        summary: of this result, for the head of the page.
        picture_bytes: maximum bytes of JPEG on the page; further rows have no picture.
    """
    ranks = result.evaluation.ranks
    assert ranks.images is not None and ranks.texts is not None
    split = _Split(result, picture_bytes)
    captions = find_failures(ranks.t2i, ranks.images, limit=limit, top=TOP)
    images = find_failures(ranks.i2t, ranks.texts, limit=limit, top=TOP)
    return FailurePage(
        model=show_name(str(summary["model"])),
        split=result.split,
        px=summary["px"],
        rsum=summary["rsum"],
        t2i=Direction(len(ranks.t2i), int((ranks.t2i > 0).sum()), len(ranks.i2t)),
        i2t=Direction(len(ranks.i2t), int((ranks.i2t > 0).sum()), len(ranks.t2i)),
        failed_captions=tuple(map(split.show_caption, captions)),
        failed_images=tuple(map(split.show_image, images)),
        notes=result.corpus.notes,
    )


class _Split:
    """The images and captions of a split, in the form of the page."""

    def __init__(self, result: SplitResult, picture_bytes: int) -> None:
        self.samples = result.samples
        self.captions = result.captions
        self.evaluation = result.evaluation
        self.image_of = result.evaluation.image_of
        self._ids = result.ids
        self._budget = ThumbnailBudget(picture_bytes, side=SIDE)

    def show_caption(self, failure: Failure) -> FailedCaption:
        text = failure.query
        own = int(self.image_of[text])
        return FailedCaption(
            id=show_name(self._ids.texts[text]),
            text=self.captions[text],
            own=self._picture(own),
            place=failure.rank + 1,
            score=float(self.evaluation.scores([text])[0, own]),
            found=tuple(
                FoundImage(self._picture(image), score, image == own)
                for image, score in zip(failure.found, failure.scores, strict=True)
            ),
        )

    def show_image(self, failure: Failure) -> FailedImage:
        image = failure.query
        mine = np.flatnonzero(self.image_of == image).tolist()
        own = self.evaluation.scores(mine)[:, image].tolist()
        return FailedImage(
            id=show_name(self._ids.images[image]),
            own=self._picture(image),
            captions=tuple(
                FoundText(self.captions[text], score, True)
                for text, score in sorted(zip(mine, own, strict=True), key=lambda pair: -pair[1])
            ),
            place=failure.rank + 1,
            found=tuple(
                FoundText(self.captions[text], score, int(self.image_of[text]) == image)
                for text, score in zip(failure.found, failure.scores, strict=True)
            ),
        )

    def _picture(self, image: int) -> Picture:
        sample = self.samples[image]
        return self._budget.show(sample.name, sample.path, partial(read_file, sample.path))
