"""Estimates for a captioning run, from a trial with some images: `d2s caption --dry-run`."""

from __future__ import annotations

import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from captioner.engine.protocol import Engine, Generation, Request
from captioner.engine.watchdog import measure_memory
from captioner.run.session import run_prepared, run_texts
from captioner.run.writer import open_store
from captioner.settings.placement import Placement
from captioner.settings.prepare import PreparedRun
from captioner.settings.texts import PreparedTexts
from captioner.store.plan import Plan
from captioner.store.row_form import RowForm
from data.dense.receipts import read_receipts
from data.dense.shards import list_shards, write_shard
from data.errors import UserError
from data.images import Status

FEWEST = 32
# Standard errors on either side: 95 % if means are normally distributed.
_ERRORS = 2.0
_MEASURE_SECONDS = 1.0
_MOST_SECONDS = 120.0
_SHARD_SIZE = 16


@dataclass(frozen=True)
class Interval:
    """The likely value, and bounds that contain the true one in nine of ten runs."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Interval:
        """The interval in another unit."""
        return Interval(self.low * factor, self.likely * factor, self.high * factor)


@dataclass(frozen=True)
class TimedText:
    """When an image was submitted and its text was returned, in seconds of the same clock."""

    submitted: float
    finished: float
    tokens: int = 0


@dataclass(frozen=True)
class CaptionForecast:
    """`tried` images were captioned, of which `ok` have texts; the rest is for `remaining` images.

    `hours` are wall-clock hours with `ranks` concurrent jobs; `gpus` is the number per job, 0
    without a GPU. `memory` is the peak on this machine, in bytes.
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
        """GPU hours of all jobs; machine hours if there is no GPU here."""
        return self.hours.times(self.ranks * max(1, self.gpus))


def forecast_total(values: Sequence[float], count: int) -> Interval:
    """Estimate the sum over `count` images from the measured sample `values`."""
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else mean
    error = _ERRORS * spread * math.sqrt(1 / len(values) + 1 / max(1, count))
    # A skewed sample usually has too few of the largest values (Johnson 1978).
    skew = statistics.fmean(((value - mean) / spread) ** 3 for value in values) if spread else 0.0
    more = (1 + 2 * _ERRORS**2) / 6 * max(0.0, skew) * spread / len(values)
    return Interval(count * max(0.0, mean - error), count * mean, count * (mean + error + more))


def forecast_seconds(texts: Sequence[TimedText], *, window: int, count: int) -> Interval:
    """Estimate the seconds for `count` images with up to `window` in flight.

    From the latency with a full window, and from the observed rate: an engine that was never full
    during the trial may be as fast as the former suggests, or no faster than the latter.
    """
    lengths = [text.finished - text.submitted for text in texts]
    begun = min(text.submitted for text in texts)
    if len(texts) >= 2 * window:
        # After the last submission, the engine was draining.
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
        # At the end, the last texts finish with a partly empty engine.
        max(by_length.high, by_pace.high) + max(lengths),
    )


class _TimedEngine:
    """An engine that is measured: when its texts finish, and how much memory is in use."""

    def __init__(self, start: Callable[[Callable[[str], None]], Engine]) -> None:
        """`start` starts the measured engine."""
        self._start = start
        self._engine: Engine | None = None
        self.submitted: dict[str, float] = {}
        self.texts: dict[str, TimedText] = {}
        self.memory = 0
        self.start_seconds = 0.0
        self.about: dict[str, Any] = {}
        self._measured = -math.inf

    def start(self, on_event: Callable[[str], None]) -> Engine:
        """Start the engine if necessary, and return self."""
        if self._engine is None:
            began = time.monotonic()
            self._engine = self._start(on_event)
            self._began = time.monotonic()
            self.start_seconds = self._began - began
            self.about = self._engine.describe()
        return cast(Engine, self)

    def forecast(self, count: int) -> Interval:
        """Estimate the seconds for this many texts, including startup."""
        texts = list(self.texts.values())
        seconds = forecast_seconds(texts, window=self.window, count=count)
        return _add(seconds, self.start_seconds)

    def list_tokens(self) -> list[int]:
        """The number of tokens of each text."""
        return [text.tokens for text in self.texts.values()]

    def close(self) -> None:
        """Close the engine, if it was started."""
        if self._engine is not None:
            self._engine.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def has_enough(self) -> bool:
        """Whether a trial can end early."""
        late = time.monotonic() - self._began > _MOST_SECONDS
        return late and len(self.texts) >= _SHARD_SIZE

    def submit(self, request: Request) -> None:
        assert self._engine is not None
        self.submitted.setdefault(request.key, time.monotonic())
        self._engine.submit(request)

    def collect(self) -> list[Generation]:
        assert self._engine is not None
        done, now = self._engine.collect(), time.monotonic()
        for text in done:
            tokens = text.caption_tokens or 0
            self.texts[text.key] = TimedText(self.submitted[text.key], now, tokens)
        if now - self._measured > _MEASURE_SECONDS:
            self._measured = now
            self.memory = max(self.memory, measure_memory(os.getpid()))
        return done


def try_images(
    prepared: PreparedRun | PreparedTexts,
    *,
    count: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_event: Callable[[str], None] = lambda _: None,
) -> CaptionForecast | None:
    """Caption `count` images of the plan into a temporary folder, and estimate the whole run.

    By default, twice the engine's window and at least 32; with a single text, those that are done
    in two minutes, if any. None if a stop was requested.

    Raises:
        UserError: an engine cannot be started, or returned no text.
    """
    passes = prepared.passes if isinstance(prepared, PreparedTexts) else ((prepared,),)
    first = passes[0][0]
    timed = [_TimedEngine(one[0].choice.start) for one in passes]
    on_event(f"starting {first.settings['engine']} for a trial")
    timed[0].start(on_event)
    hurried = count is None and first.text is None
    each = sum(run.planned_rows for run in passes[0]) / len(first.plan.records)
    count = count or max(FEWEST, math.ceil(2 * timed[0].window / each))
    trial = _Trial(prepared, passes, timed, min(len(first.plan.records), count))
    try:
        with tempfile.TemporaryDirectory(prefix="d2s-trial-") as folder:
            tables = trial.run(
                Path(folder), stop=lambda: stop() or (hurried and timed[0].has_enough())
            )
            if stop():
                return None
            return trial.conclude(tables, Path(folder))
    finally:
        for engine in timed:
            engine.close()


def count_remaining(prepared: PreparedRun) -> int:
    """Number of rows to generate, those to be retried included; writes nothing."""
    previous, retry = prepared.previous, prepared.config.output.retry_errors
    if previous is None or previous.get("run_id") != prepared.run_id:
        return prepared.planned_rows
    with open_store(replace(prepared, shared=False)) as store:
        known = read_receipts(prepared.directory).items()
        store.receipts = {index: one for index, one in known if store.locate(index).is_file()}
        unfinished = store.list_unfinished(retry_errors=retry)
        return sum(store.count_missing(index, retry_errors=retry) for index in unfinished)


@dataclass(frozen=True)
class _Trial:
    """A sample of the plan, captioned by measured engines, one per pass."""

    prepared: PreparedRun | PreparedTexts
    passes: Sequence[Sequence[PreparedRun]]
    engines: Sequence[_TimedEngine]
    count: int

    def run(self, folder: Path, *, stop: Callable[[], bool]) -> list[pa.Table]:
        """The rows of each run for `count` images of the whole plan; fewer if stopped."""
        records = self.passes[0][0].plan.records
        places = sorted(random.Random(0).sample(range(len(records)), self.count))
        if self.passes[0][0].source.options.get("streaming"):
            # Others would mean streaming everything before them.
            places = list(range(self.count))
        # Small shards, so that those of a trial that ends early can be read.
        plan = Plan([records[place] for place in places], _SHARD_SIZE)
        passes = tuple(
            tuple(self._prepare(run, plan, engine, folder) for run in one)
            for one, engine in zip(self.passes, self.engines, strict=True)
        )
        if isinstance(self.prepared, PreparedTexts):
            run_texts(
                replace(self.prepared, directory=folder, passes=passes, changed={}), stop=stop
            )
        else:
            run_prepared(passes[0][0], stop=stop)
        return [_read(run) for one in passes for run in one]

    def _prepare(
        self, run: PreparedRun, plan: Plan, engine: _TimedEngine, folder: Path
    ) -> PreparedRun:
        return replace(
            run,
            directory=folder / run.directory.name,
            plan=plan,
            previous=None,
            shared=False,
            config=replace(run.config, placement=Placement()),
            choice=replace(run.choice, start=engine.start),
        )

    def conclude(self, tables: Sequence[pa.Table], folder: Path) -> CaptionForecast:
        """Estimate the rest of the run; UserError if there was no text."""
        statuses = [s for table in tables for s in table.column("status").to_pylist()]
        if Status.OK not in statuses or not all(engine.texts for engine in self.engines):
            raise UserError(_explain_nothing(tables))
        runs = [run for one in self.passes for run in one]
        placement = runs[0].config.placement
        ranks = placement.cluster_engines or placement.world_size
        left = [sum(map(count_remaining, one)) for one in self.passes]
        # An engine without remaining work is not started.
        busy = [(e, n) for e, n in zip(self.engines, left, strict=True) if n]
        return CaptionForecast(
            tried=len(statuses),
            ok=statuses.count(Status.OK),
            remaining=sum(left),
            start_seconds=sum(engine.start_seconds for engine, _ in busy),
            ranks=ranks,
            gpus=max(_count_gpus(engine.about) for engine in self.engines),
            hours=_sum(e.forecast(math.ceil(n / ranks)) for e, n in busy).times(1 / 3600),
            tokens=_sum(forecast_total(e.list_tokens(), n) for e, n in busy),
            disk=_sum(
                _forecast_disk(table, count_remaining(run), run.plan.shard_size, folder)
                for run, table in zip(runs, tables, strict=True)
                if len(table)
            ),
            memory=max(engine.memory for engine in self.engines),
        )


def _read(run: PreparedRun) -> pa.Table:
    schema = RowForm.of(run.settings).schema
    files = list_shards(run.directory)
    return pa.concat_tables([schema.empty_table(), *map(pq.read_table, files)])


def _explain_nothing(tables: Sequence[pa.Table]) -> str:
    errors = [error for rows in tables for error in rows.column("error").to_pylist() if error]
    return "no image of the trial was captioned" + (f": {errors[-1]}" if errors else "")


def _forecast_disk(rows: pa.Table, remaining: int, shard_size: int, folder: Path) -> Interval:
    """Estimate the bytes of the shards from one with all rows of the trial."""
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


def _sum(intervals: Iterable[Interval]) -> Interval:
    """The sum of sequential parts."""
    each = list(intervals)
    low, likely, high = (sum(getattr(one, n) for one in each) for n in ("low", "likely", "high"))
    return Interval(low, likely, high)


def _add(interval: Interval, more: float) -> Interval:
    return Interval(interval.low + more, interval.likely + more, interval.high + more)
