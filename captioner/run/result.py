"""What a captioning run tells its caller: how far it is, and what it came to."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How many of the run's images are done, those of earlier sessions included, of how many.

    `tokens_per_second` is of this session's last half minute, 0 before.
    """

    done: int
    total: int
    tokens_per_second: float = 0.0


@dataclass(frozen=True)
class CaptionResult:
    """What a run is when `caption` returns.

    `generated` and `seconds` are of this session; `seconds` leaves out the start of the engine.
    A run is not `complete` and yet not `interrupted` where living owners have shards in work, which
    `elsewhere` counts by their names; or, with nothing there, where shards are left to nobody.
    """

    directory: Path
    planned: int
    done: int
    rows: int
    ok: int
    errors: int
    statuses: dict[str, int]
    flags: dict[str, int]
    complete: bool
    interrupted: bool
    elsewhere: dict[str, int]
    generated: int
    seconds: float
    fingerprint: str
    new_images: int
