"""The content of the page and the contact sheet as plain records, their only input."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.pages.kit.thumbnails import Thumbnail

# The sort orders of rows, and their labels on the page.
SORTS = {
    "worst": "worst first",
    "plan": "in the plan's order",
    "longest": "longest first",
    "shortest": "shortest first",
    "repetition": "most repetition first",
    "score": "lowest CLIPScore first",
}


@dataclass(frozen=True)
class ReviewRow:
    """One displayed row of the run.

    `position` is its place in the plan, from 0; `rank` its place when all rows of the run are
    ordered worst first. `marks` say what was done to the text (trimmed, second attempt). Without a
    picture, `missing` says why. `filters` are the indices of the Review's filters that match the
    row.
    """

    position: int
    rank: int
    name: str
    status: str
    error: str | None
    text: str | None
    flags: tuple[str, ...]
    marks: tuple[str, ...]
    words: int | None
    tokens: int | None
    repetition: float | None
    score: float | None
    captions: tuple[str, ...]
    size: tuple[int, int] | None
    picture: Thumbnail | None = None
    missing: str | None = None
    filters: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the row has a text."""
        return self.status == "ok"


@dataclass(frozen=True)
class Filter:
    """A button of the page; `kind` is all, error, status, flag, mark or clean.

    `shown` counts rows of the page, `total` rows of the run.
    """

    label: str
    kind: str
    shown: int
    total: int


@dataclass(frozen=True)
class Bar:
    """One bar of a chart, in the chart's units, with its tooltip."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """A histogram of one measure over all texts; `median_x` is the position of the median."""

    title: str
    summary: str
    bars: tuple[Bar, ...]
    median_x: float
    low: str
    high: str


@dataclass(frozen=True)
class LabelCount:
    """The number of rows with a flag or error; `share` is relative to the most frequent."""

    label: str
    count: int
    share: float


@dataclass(frozen=True)
class Review:
    """Everything on the page.

    `rows` counts the finished rows of the run, `planned` those of its plan, and `matching` the
    rows with the requested flag, of which `entries` are the first. `notes` tell the reader what is
    missing; `scored` is whether there are CLIPScores.
    """

    title: str
    model: str
    planned: int
    rows: int
    ok: int
    flagged: int
    matching: int
    asked: str | None
    sort: str
    scored: bool
    facts: tuple[tuple[str, str], ...]
    histograms: tuple[Histogram, ...]
    flags: tuple[LabelCount, ...]
    errors: tuple[LabelCount, ...]
    filters: tuple[Filter, ...]
    entries: tuple[ReviewRow, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def pictures(self) -> int:
        """The number of entries with a picture."""
        return sum(entry.picture is not None for entry in self.entries)
