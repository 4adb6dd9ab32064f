"""`caption(...)`: dense text for a folder of images, begun or taken up where it was left."""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from captioner.engines.protocol import Engine
from captioner.journal import Record
from captioner.plan import write_plan
from captioner.prepare import CaptionArguments, PreparedRun, prepare_caption
from captioner.run_record import count_rows, make_run_record
from captioner.shard_runner import ShardRunner
from captioner.store import RunStore, lock_folder
from data.atomic import explain_full_disk, write_json
from data.errors import UserError
from data.shards import RUN_NAME


@dataclass(frozen=True)
class Progress:
    """How many of the run's images are done, those of earlier sessions included, of how many."""

    done: int
    total: int


@dataclass(frozen=True)
class CaptionResult:
    """What a run is when `caption` returns.

    `generated` and `seconds` are of this session; `seconds` leaves out the start of the engine.
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
    generated: int
    seconds: float
    fingerprint: str
    new_images: int


def caption(
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
    **arguments: Unpack[CaptionArguments],
) -> CaptionResult:
    """Write one row per image of the folder `images` into Parquet shards in `out`.

    Calling it again with the same arguments goes on where it was left and repeats nothing. The
    arguments are those of CaptionArguments; `model` and `images` are required. `stop` is asked
    between steps; `on_event` gets lines for a reader, `on_progress` the counts.

    Raises:
        UserError: anything the caller can put right; what was finished stays finished.
    """
    prepared = prepare_caption(**arguments)
    return run_prepared(prepared, stop=stop, on_progress=on_progress, on_event=on_event)


def run_prepared(
    prepared: PreparedRun,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
) -> CaptionResult:
    """Do what was prepared; see `caption`."""
    lock = _take_folder(prepared)
    try:
        return _Session(prepared, stop, on_progress, on_event).run()
    finally:
        os.close(lock)


def _take_folder(prepared: PreparedRun) -> int:
    directory = prepared.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(directory)
    except OSError as error:
        raise UserError(f"cannot write into {directory}: {error.strerror}") from error
    if prepared.previous is None and (directory / RUN_NAME).exists():
        os.close(lock)
        raise UserError(f"another run has just begun in {directory}: give another --out")
    return lock


class _Session:
    """One go at a run: from the checks to the last line of run.json."""

    def __init__(
        self,
        prepared: PreparedRun,
        stop: Callable[[], bool],
        on_progress: Callable[[Progress], None],
        on_event: Callable[[str], None],
    ) -> None:
        self._prepared = prepared
        self._stop = stop
        self._on_progress = on_progress
        self._on_event = on_event
        self._engine: Engine | None = None
        self._engine_record: dict[str, Any] = {}
        self._total = len(prepared.plan.records)
        self._remaining = 0
        self._generated = 0
        self._seconds = 0.0
        self._store = RunStore(
            prepared.directory,
            prepared.plan,
            run_id=prepared.run_id,
            engine=prepared.settings["engine"],
            run_seed=prepared.settings["sampling"]["seed"],
            metadata=prepared.metadata,
        )

    def run(self) -> CaptionResult:
        retry = self._prepared.retry_errors
        self._begin()
        unfinished = self._store.list_unfinished(retry_errors=retry)
        if not unfinished and (self._prepared.previous or {}).get("complete"):
            return self._make_result(complete=True)
        self._remaining = sum(
            self._store.count_missing(index, retry_errors=retry) for index in unfinished
        )
        try:
            if self._remaining and not self._stop():
                self._start_engine()
            complete = self._caption(retry)
        except BaseException:
            # run.json then says how far it came; what went wrong before is the thing to tell.
            with contextlib.suppress(UserError):
                self._write_record()
            raise
        finally:
            if self._engine is not None:
                self._engine.close()
        self._write_record()
        return self._make_result(complete=complete)

    def _begin(self) -> None:
        prepared = self._prepared
        with explain_full_disk(prepared.directory):
            if prepared.previous is None:
                write_plan(prepared.directory, prepared.plan)
                self._write_record()
            self._store.check_shards()

    def _start_engine(self) -> None:
        self._on_event(
            f"starting {self._prepared.settings['engine']} for {self._remaining:,} images"
        )
        self._engine = self._prepared.choice.start()
        self._engine_record = self._engine.describe()

    def _caption(self, retry: bool) -> bool:
        started = time.monotonic()
        self._on_progress(Progress(self._total - self._remaining, self._total))
        runner = ShardRunner(
            self._store,
            images_folder=self._prepared.images,
            preprocessing=self._prepared.choice.preprocessing,
            engine=self._engine,
            run_seed=self._prepared.settings["sampling"]["seed"],
            workers=self._prepared.decode_workers,
            retry_errors=retry,
            stop=self._stop,
            on_done=self._count,
        )
        try:
            complete = runner.run()
        finally:
            self._seconds = time.monotonic() - started
        if complete:
            self._store.finish()
        return complete

    def _count(self, _: Record) -> None:
        self._generated += 1
        self._remaining -= 1
        self._on_progress(Progress(self._total - self._remaining, self._total))

    def _write_record(self) -> None:
        record = make_run_record(
            settings=self._prepared.settings,
            fingerprint=self._prepared.fingerprint,
            run_id=self._prepared.run_id,
            images_folder=self._prepared.images,
            store=self._store,
            previous=self._prepared.previous or {},
            engine=self._engine_record,
            generated=self._generated,
            seconds=self._seconds,
        )
        write_json(self._prepared.directory / RUN_NAME, record)

    def _make_result(self, *, complete: bool) -> CaptionResult:
        counts, statuses, flags = count_rows(self._store)
        return CaptionResult(
            directory=self._prepared.directory,
            planned=self._total,
            done=self._total - self._remaining,
            **counts,
            statuses=statuses,
            flags=flags,
            complete=complete,
            interrupted=not complete,
            generated=self._generated,
            seconds=round(self._seconds, 3),
            fingerprint=self._prepared.fingerprint,
            new_images=self._prepared.new_images,
        )
