"""What a captioning run will take, from a trial of some of its images: `d2s caption --dry-run`."""

from __future__ import annotations

import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captioner.engine.protocol import Engine, Generation, Request
from captioner.engine.watchdog import measure_memory
from captioner.run.session import run_prepared
from captioner.settings.placement import Placement
from captioner.settings.prepare import PreparedRun
from captioner.store.plan import Plan
from data.dense.schema import CAPTION_SCHEMA
from data.dense.shards import list_shards, write_shard
from data.errors import UserError
from data.images import Status

FEWEST = 32
# Standard errors on either side: 95 of 100 where means are normal.
_ERRORS = 2.0
_MEASURE_SECONDS = 1.0
_MOST_SECONDS = 120.0
_SHARD_SIZE = 16


@dataclass(frozen=True)
class Interval:
    """The likely value and those that the true one lies between in nine of ten runs."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Interval:
        """In another unit."""
        return Interval(self.low * factor, self.likely * factor, self.high * factor)


@dataclass(frozen=True)
class TimedText:
    """When an image went into the engine and its text came out, in seconds of one clock."""

    submitted: float
    finished: float
    tokens: int = 0


@dataclass(frozen=True)
class CaptionForecast:
    """`tried` images were captioned, of which `ok` have texts; the rest is for `remaining` images.

    `hours` are those of the clock, with `ranks` jobs at work side by side; `gpus` are of one of
    them, 0 without any. `memory` is what this machine needed, in bytes, at most.
    """

    tried: int
    ok: int
    remaining: int
    start_seconds: float
    ranks: int
    gpus: int
    hours: Interval
    tokens: Interval
    disk: Interval
    memory: int

    @property
    def device_hours(self) -> Interval:
        """GPU hours of all jobs; hours of their machines where there is no GPU here."""
        return self.hours.times(self.ranks * max(1, self.gpus))


def forecast_total(values: Sequence[float], count: int) -> Interval:
    """The sum over `count` images of what was measured at `values`, a sample of them."""
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else mean
    error = _ERRORS * spread * math.sqrt(1 / len(values) + 1 / max(1, count))
    return Interval(count * max(0.0, mean - error), count * mean, count * (mean + error))


def forecast_seconds(texts: Sequence[TimedText], *, window: int, count: int) -> Interval:
    """Seconds for `count` images by an engine that has up to `window` in work.

    By how long a text takes with a full window, and by how fast texts came: an engine that
    was never full in the trial may be as fast as the one says or no faster than the other.
    """
    lengths = [text.finished - text.submitted for text in texts]
    begun = min(text.submitted for text in texts)
    if len(texts) >= 2 * window:
        # While nothing was submitted any more the engine ran empty.
        until = max(text.submitted for text in texts)
        finished = sum(text.finished <= until for text in texts)
    else:
        until, finished = max(text.finished for text in texts), len(texts)
    by_length = forecast_total(lengths, count).times(1 / max(1, min(window, count)))
    pace = (until - begun) / max(1, finished)
    spread = by_length.high / by_length.likely if by_length.likely else 1.0
    by_pace = Interval(max(0.0, 2 - spread) * count * pace, count * pace, spread * count * pace)
    return Interval(
        min(by_length.low, by_pace.low),
        (by_length.likely + by_pace.likely) / 2,
        # At the end nothing follows on the longest.
        max(by_length.high, by_pace.high) + max(lengths),
    )


class _TimedEngine:
    """An engine that is looked at: when its texts come, and how much memory there is in use."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.submitted: dict[str, float] = {}
        self.texts: dict[str, TimedText] = {}
        self.memory = 0
        self._began = time.monotonic()
        self._measured = -math.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def has_enough(self) -> bool:
        """Whether a trial that may end early should."""
        late = time.monotonic() - self._began > _MOST_SECONDS
        return late and len(self.texts) >= _SHARD_SIZE

    def submit(self, request: Request) -> None:
        self.submitted.setdefault(request.key, time.monotonic())
        self._engine.submit(request)

    def collect(self) -> list[Generation]:
        done, now = self._engine.collect(), time.monotonic()
        for text in done:
            tokens = text.caption_tokens or 0
            self.texts[text.key] = TimedText(self.submitted[text.key], now, tokens)
        if now - self._measured > _MEASURE_SECONDS:
            self._measured = now
            self.memory = max(self.memory, measure_memory(os.getpid()))
        return done


def try_images(
    prepared: PreparedRun,
    *,
    count: int | None = None,
    remaining: int,
    stop: Callable[[], bool] = lambda: False,
    on_event: Callable[[str], None] = lambda _: None,
) -> CaptionForecast | None:
    """Caption `count` images of the plan into a folder that is removed, and say what all will take.

    By default as many as fill the engine's window twice, 32 at least, or those that are done in two
    minutes if there are some. None if a stop was asked for.

    Raises:
        UserError: the engine cannot be started, or gave no text.
    """
    began = time.monotonic()
    on_event(f"starting {prepared.settings['engine']} for a trial")
    engine = prepared.choice.start(on_event)
    timed = _TimedEngine(engine)
    start_seconds = time.monotonic() - began
    hurried = count is None
    count = min(len(prepared.plan.records), count or max(FEWEST, 2 * engine.window))
    try:
        with tempfile.TemporaryDirectory(prefix="d2s-trial-") as folder:
            rows = _caption_sample(
                prepared,
                timed,
                count,
                Path(folder),
                stop=lambda: stop() or (hurried and timed.has_enough()),
            )
            if stop():
                return None
            ok = rows.column("status").to_pylist().count(Status.OK)
            if not ok or not timed.texts:
                raise UserError(_explain_nothing(rows))
            disk = _forecast_disk(rows, remaining, prepared.plan.shard_size, Path(folder))
    finally:
        engine.close()
    texts, placement = list(timed.texts.values()), prepared.config.placement
    ranks = placement.cluster_engines or placement.world_size
    seconds = forecast_seconds(texts, window=engine.window, count=math.ceil(remaining / ranks))
    return CaptionForecast(
        tried=rows.num_rows,
        ok=ok,
        remaining=remaining,
        start_seconds=start_seconds,
        ranks=ranks,
        gpus=_count_gpus(engine.describe()),
        hours=_add(seconds, start_seconds).times(1 / 3600),
        tokens=forecast_total([text.tokens for text in texts], remaining),
        disk=disk,
        memory=timed.memory,
    )


def _caption_sample(
    prepared: PreparedRun,
    engine: _TimedEngine,
    count: int,
    folder: Path,
    *,
    stop: Callable[[], bool],
) -> pa.Table:
    """The rows of `count` images, drawn from the whole plan; fewer if it was stopped."""
    records = prepared.plan.records
    places = sorted(random.Random(0).sample(range(len(records)), count))
    trial = replace(
        prepared,
        directory=folder / "run",
        # Small shards: those of a trial that ends early can be read.
        plan=Plan([records[place] for place in places], _SHARD_SIZE),
        previous=None,
        shared=False,
        config=replace(prepared.config, placement=Placement()),
        choice=replace(prepared.choice, start=lambda _: engine),
    )
    run_prepared(trial, stop=stop)
    files = list_shards(trial.directory)
    return pa.concat_tables([CAPTION_SCHEMA.empty_table(), *map(pq.read_table, files)])


def _explain_nothing(rows: pa.Table) -> str:
    errors = [error for error in rows.column("error").to_pylist() if error]
    return "no image of the trial got a text" + (f": {errors[-1]}" if errors else "")


def _forecast_disk(rows: pa.Table, remaining: int, shard_size: int, folder: Path) -> Interval:
    """Bytes of the shards, by those of one that holds all rows of the trial."""
    path = folder / "all.parquet"
    write_shard(path, rows, metadata={})
    footer = pq.read_metadata(path).serialized_size
    texts = rows.select(["caption", "file_name"]).to_pylist()
    letters = [len(row["caption"] or "") + len(row["file_name"]) for row in texts]
    each = (path.stat().st_size - footer) / max(1, sum(letters))
    found = forecast_total(letters, remaining).times(each)
    return _add(found, footer * math.ceil(remaining / shard_size))


def _count_gpus(about: dict[str, Any]) -> int:
    if about.get("device") in (None, "cpu"):
        return 0
    return int(about.get("engines", 1)) * int(about.get("tensor_parallel_size", 1))


def _add(interval: Interval, more: float) -> Interval:
    return Interval(interval.low + more, interval.likely + more, interval.high + more)
