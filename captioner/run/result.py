"""The progress and result of a captioning run."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.files.hashes import hash_bytes


@dataclass(frozen=True)
class Progress:
    """Number of finished images, including earlier sessions, and in total.

    `tokens_per_second` and the engine's `load` (`Engine.measure`) refer to the last half minute of
    this session; they are 0 and empty at first.
    """

    done: int
    total: int
    tokens_per_second: float = 0.0
    load: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CaptionResult:
    """The state of a run when `caption` returns.

    `generated` and `seconds` refer to this session; `seconds` excludes the startup of the engine. A
    run can be neither `complete` nor `interrupted`: if other running jobs have shards in progress
    (counted by owner in `elsewhere`), or if shards are left that no job is working on. `texts` has
    the results of each of several texts, by name.
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
    texts: dict[str, "CaptionResult"] = field(default_factory=dict)


def sum_results(directory: Path, texts: dict[str, CaptionResult]) -> CaptionResult:
    """Combine the results of several texts: sums, and each by name in `texts`."""
    each = list(texts.values())

    def add(name: str) -> Any:
        return sum(getattr(result, name) for result in each)

    def merge(name: str) -> dict[str, int]:
        total: Counter[str] = Counter()
        for result in each:
            total.update(getattr(result, name))
        return dict(sorted(total.items()))

    counts = ("planned", "done", "rows", "ok", "errors", "generated")
    joined = "".join(f"{name}={result.fingerprint}\n" for name, result in texts.items())
    return CaptionResult(
        directory=directory,
        **{name: add(name) for name in counts},
        statuses=merge("statuses"),
        flags=merge("flags"),
        elsewhere=merge("elsewhere"),
        complete=all(result.complete for result in each),
        interrupted=any(result.interrupted for result in each),
        # Texts of one model are generated in the same seconds.
        seconds=max(result.seconds for result in each),
        fingerprint=hash_bytes(joined.encode()),
        new_images=max(result.new_images for result in each),
        texts=texts,
    )
