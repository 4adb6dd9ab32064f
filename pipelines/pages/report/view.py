"""The content of the report as plain records, the only input of the template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ComparedMethod:
    """A compared method: its name, what it trains on, and the folders of its runs, last = model."""

    name: str
    note: str
    runs: tuple[str, ...]

    @property
    def key(self) -> str:
        """The name in results.json."""
        return self.name.replace(" ", "_")


@dataclass(frozen=True)
class Curve:
    """One line of a chart: values over training steps."""

    label: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Sentence:
    """A sentence of a dense text; `true` if every statement in it is true."""

    text: str
    true: bool


@dataclass(frozen=True)
class Example:
    """An image with its captions and dense text."""

    image: Path
    sparse: tuple[str, ...]
    dense: tuple[Sentence, ...]


@dataclass(frozen=True)
class RankedImage:
    """One image in a ranking; `own` if it is the query's image."""

    image: Path
    score: float
    own: bool


@dataclass(frozen=True)
class Ranking:
    """One model's result for a query: the rank of its own image (1 is best), the top images."""

    model: str
    rank: int
    hits: tuple[RankedImage, ...]


@dataclass(frozen=True)
class RankedQuery:
    """A sparse caption of the test split, and each model's result for it."""

    text: str
    rankings: tuple[Ranking, ...]


@dataclass(frozen=True)
class Step:
    """One step of the demo: the equivalent command, and its seconds."""

    name: str
    command: str
    seconds: float


@dataclass(frozen=True)
class Row:
    """One row of recalls in percent, in the order I2T R@1, 5, 10, T2I R@1, 5, 10."""

    name: str
    note: str
    recalls: tuple[float, ...]
    rsum: float


@dataclass(frozen=True)
class Report:
    """Everything on the page."""

    rows: tuple[Row, ...]
    oracle_t2i: float
    oracle_i2t: float
    facts: dict[str, float]
    captioner: dict[str, float]
    validation: tuple[Curve, ...]
    losses: tuple[Curve, ...]
    examples: tuple[Example, ...]
    queries: tuple[RankedQuery, ...]
    steps: tuple[Step, ...]
    machine: str
