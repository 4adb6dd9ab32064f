"""Selecting and ordering the rows of a captioning run for review."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.dense import shards
from data.errors import UserError
from data.images import Status

SCORES_NAME = "scores.parquet"
ANY_ERROR = "error"
# Errors have severity 0, rows without flags 4, and flags not listed here 3.
SEVERITIES = {"empty": 1, "refusal": 1, "loop": 1, "truncated": 2}
_OTHER_FLAG, _NO_FLAG = 3, 4
_COLUMNS = (
    *("sample_id", "file_name", "split", "width", "height", "caption", "status", "error"),
    *("caption_tokens", "caption_words", "flags", "repetition", "captions"),
    *("attempt", "trimmed", "image_sha256"),
)


@dataclass(frozen=True)
class RunRows:
    """The finished rows of a run in plan order, with sort keys.

    Missing numbers are NaN; `severity` is 0 (an error) to 4. `marks` say what was done to a text.
    """

    table: pa.Table
    statuses: list[str]
    flags: list[tuple[str, ...]]
    marks: list[tuple[str, ...]]
    words: np.ndarray[Any, Any]
    tokens: np.ndarray[Any, Any]
    repetition: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any] | None
    severity: np.ndarray[Any, Any]

    def order(self, sort: str) -> np.ndarray[Any, Any]:
        """All rows, as positions in plan order, by one of SORTS; ties keep the plan's order."""
        plan = np.arange(len(self.statuses))
        none = np.full(len(plan), np.nan)
        scores = self.scores if self.scores is not None else none
        # np.lexsort uses its last key first, and puts NaN at the end.
        keys = {
            "worst": (scores, -self.repetition, self.severity),
            "plan": (plan,),
            "longest": (-self.words,),
            "shortest": (self.words,),
            "repetition": (-self.repetition,),
            "score": (scores,),
        }
        return np.lexsort((plan, *keys[sort]))


def read_rows(directory: Path) -> RunRows:
    """Read the finished shards of a run, and its CLIPScores, if any.

    Raises:
        UserError: no run, no finished shard, a changed shard, or unreadable scores.
    """
    table = shards.read_rows(directory, _COLUMNS, allow_incomplete=True)
    if table.num_rows == 0:
        raise UserError(
            f"no shard of {directory} is finished yet: wait until `d2s caption` has finished one"
        )
    statuses = table.column("status").to_pylist()
    flags = [tuple(names or ()) for names in table.column("flags").to_pylist()]
    return RunRows(
        table=table,
        statuses=statuses,
        flags=flags,
        marks=_mark(table),
        words=_read_numbers(table, "caption_words"),
        tokens=_read_numbers(table, "caption_tokens"),
        repetition=_read_numbers(table, "repetition"),
        scores=_read_scores(directory, table),
        severity=np.array(
            [_rate(status, names) for status, names in zip(statuses, flags, strict=True)]
        ),
    )


def select_rows(rows: RunRows, *, flag: str | None) -> list[int]:
    """Positions of the rows with this flag or status (`error`: any that is not ok), in plan order.

    Raises:
        UserError: no row has it; lists the existing ones.
    """
    if flag is None:
        return list(range(len(rows.statuses)))
    chosen = [
        position
        for position, (status, names) in enumerate(zip(rows.statuses, rows.flags, strict=True))
        if flag in names or flag == status or (flag == ANY_ERROR and status != Status.OK)
    ]
    if not chosen:
        there = Counter(rows.statuses) + Counter(name for names in rows.flags for name in names)
        near = get_close_matches(flag, there, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        listed = ", ".join(f"{name} ({count:,})" for name, count in there.most_common())
        raise UserError(f"no row has the flag or status {flag!r}: {hint}known: {listed}")
    return chosen


def pick_rows(rows: RunRows, chosen: Sequence[int], *, sort: str, limit: int) -> list[int]:
    """The first `limit` of the chosen rows by one of SORTS.

    With worst first, errors take at most a quarter of the places while there are texts to show: a
    thousand missing files would otherwise hide all texts.
    """
    wanted = set(chosen)
    ordered = [int(position) for position in rows.order(sort) if position in wanted]
    if sort != "worst":
        return ordered[:limit]
    errors = [position for position in ordered if rows.severity[position] == 0]
    texts = ordered[len(errors) :]
    places = max(limit // 4, limit - len(texts))
    return [*errors[:places], *texts][:limit]


def _rate(status: str, flags: Sequence[str]) -> int:
    if status != Status.OK:
        return 0
    return min((SEVERITIES.get(flag, _OTHER_FLAG) for flag in flags), default=_NO_FLAG)


def _mark(table: pa.Table) -> list[tuple[str, ...]]:
    trimmed, attempts = (table.column(name).to_pylist() for name in ("trimmed", "attempt"))
    return [
        ("trimmed",) * bool(cut) + ("second attempt",) * ((attempt or 1) > 1)
        for cut, attempt in zip(trimmed, attempts, strict=True)
    ]


def _read_numbers(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    return table.column(name).cast(pa.float64()).to_numpy()


def _read_scores(directory: Path, table: pa.Table) -> np.ndarray[Any, Any] | None:
    path = directory / SCORES_NAME
    if not path.is_file():
        return None
    try:
        scores = pq.read_table(path, columns=["sample_id", "clipscore"], partitioning=None)
        names = scores.column("sample_id").to_pylist()
        values = scores.column("clipscore").cast(pa.float64()).to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as scores (columns sample_id and clipscore): move it "
            "elsewhere, or create it again"
        ) from error
    known = dict(zip(_number_samples(names), values.tolist(), strict=True))
    rows = _number_samples(table.column("sample_id").to_pylist())
    return np.array([known.get(row, np.nan) for row in rows])


def _number_samples(sample_ids: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each id with a number: the rows of an image's samples share its id."""
    seen: Counter[str] = Counter()
    for sample_id in sample_ids:
        yield sample_id, seen[sample_id]
        seen[sample_id] += 1
