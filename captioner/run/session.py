"""`caption(...)`: dense text for many images, begun or taken up where it was left."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captioner.decode.source_watch import DeadSourceError
from captioner.engine.protocol import Engine
from captioner.run.shards import ShardRunner, make_runner, open_store
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import PreparedRun, prepare_caption, refuse_other_fingerprint
from captioner.store.duplicate_flags import flag_duplicates
from captioner.store.journal import Outcome
from captioner.store.locks import explain_no_locks, hold_folder
from captioner.store.other_owners import wait_for_owners
from captioner.store.plan import write_plan
from captioner.store.run_record import count_rows, make_run_record
from captioner.store.store import RunStore
from data.dense.run import RUN_NAME, read_run
from data.errors import UserError
from data.files.atomic import explain_full_disk, write_json


@dataclass(frozen=True)
class Progress:
    """How many of the run's images are done, those of earlier sessions included, of how many."""

    done: int
    total: int


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


def caption(
    config: CaptionConfig | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> CaptionResult:
    """Write one row per image of `images` into Parquet shards in `out`.

    Calling it again with the same settings goes on where it was left and repeats nothing. They are
    a `CaptionConfig`, or its options by their names, of which `model` and `images` are required.
    `stop` is asked between steps; `on_event` gets lines for a reader, `on_progress` the counts.

    Raises:
        UserError: anything the caller can put right; what was finished stays finished.
    """
    prepared = prepare_caption(config or CaptionConfig.of(**options))
    return run_prepared(prepared, stop=stop, on_progress=on_progress, on_event=on_event)


def run_prepared(
    prepared: PreparedRun,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
) -> CaptionResult:
    """Do what was prepared; see `caption`."""
    with hold_folder(prepared.directory, shared=prepared.placement.shared) as holds:
        if not holds:
            on_event(explain_no_locks(prepared.directory))
            prepared = replace(prepared, placement=replace(prepared.placement, locked=False))
        _refuse_late(prepared)
        with open_store(prepared) as store:
            return _Session(prepared, store, stop, on_progress, on_event).run()


def _refuse_late(prepared: PreparedRun) -> None:
    begun = prepared.previous is None and (prepared.directory / RUN_NAME).exists()
    if begun and not prepared.placement.shared:
        raise UserError(f"another run has just begun in {prepared.directory}: give another --out")


class _Session:
    """One go at a run: from the checks to the last line of run.json."""

    def __init__(
        self,
        prepared: PreparedRun,
        store: RunStore,
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
        self._previous = prepared.previous or {}
        self._complete = bool(self._previous.get("complete"))
        self._total = len(prepared.plan.records)
        self._remaining = 0
        self._generated = 0
        self._trimmed = 0
        self._noted = False
        self._seconds = 0.0
        self._elsewhere: dict[str, int] = {}
        self._store = store

    def run(self) -> CaptionResult:
        retry = self._prepared.config.output.retry_errors
        self._begin()
        unfinished = self._store.list_unfinished(retry_errors=retry)
        if not unfinished and self._complete:
            if self._previous.get("images") != self._prepared.images["images"]:
                # Told where they are now.
                self._write_record()
            return self._make_result(interrupted=False)
        if self._complete:
            # Killed while it is written anew, it must not be taken for finished.
            self._complete = False
            self._write_record()
        self._remaining = sum(
            self._store.count_missing(index, retry_errors=retry) for index in unfinished
        )
        try:
            if self._prepared.placement.cluster is not None and unfinished:
                finished = self._caption_on_cluster(unfinished)
            else:
                if self._remaining and not self._stop():
                    self._start_engine()
                finished = self._caption(self._order(unfinished))
            if finished and self._store.find_finished():
                self._finish()
        except BaseException as error:
            # run.json then says how far it came; what went wrong before is the thing to tell.
            with contextlib.suppress(UserError):
                self._write_record()
            if isinstance(error, DeadSourceError) and not self._previous:
                self._store.discard()
            raise
        finally:
            if self._engine is not None:
                self._engine.close()
        self._write_record()
        if self._trimmed:
            self._on_event(
                f"{self._trimmed:,} texts were cut: reasoning, or a last sentence without an end "
                "(their rows say so in `trimmed`)"
            )
        return self._make_result(interrupted=not finished)

    def _begin(self) -> None:
        prepared = self._prepared
        with explain_full_disk(prepared.directory), self._store.committing():
            if not (prepared.directory / RUN_NAME).exists():
                write_plan(prepared.directory, prepared.plan)
                self._write_record_now()
            elif prepared.previous is None:
                # Another owner was first; all of them were told the same, or this one is refused.
                refuse_other_fingerprint(prepared)
            self._store.check_shards()

    def _order(self, shards: list[int]) -> list[int]:
        """One's own first; then those that others have not begun, or have left behind."""
        rank, size = self._prepared.placement.rank, self._prepared.placement.world_size
        return sorted(shards, key=lambda index: (index % size != rank, (index - rank) % size))

    def _start_engine(self) -> None:
        self._on_event(
            f"starting {self._prepared.settings['engine']} for {self._remaining:,} images"
        )
        self._engine = self._prepared.choice.start(self._on_event)
        self._engine_record = self._engine.describe()

    def _caption(self, shards: list[int]) -> bool:
        """True if no stop was asked for."""
        self._on_progress(Progress(self._total - self._remaining, self._total))
        runner = make_runner(
            self._prepared, self._store, self._engine, stop=self._stop, on_done=self._count
        )
        finished, before = self._run(runner, shards), tuple[int, ...]()
        while finished and self._prepared.placement.shared:
            # What others left behind meanwhile, or died over, until nothing more is to be had.
            left = wait_for_owners(self._store, stop=self._stop, on_event=self._on_event)
            self._elsewhere = {} if left.free else left.elsewhere
            if self._stop():
                return False
            if not left.free or left.free == before:
                break
            before = left.free
            finished = self._run(runner, self._order(list(before)))
        return finished

    def _run(self, runner: ShardRunner, shards: list[int]) -> bool:
        started = time.monotonic()
        try:
            return runner.run(shards)
        finally:
            self._seconds += time.monotonic() - started

    def _caption_on_cluster(self, shards: list[int]) -> bool:
        """True if no stop was asked for."""
        from captioner.run.ray import run_on_ray

        started, retry = time.monotonic(), self._prepared.config.output.retry_errors

        def poll() -> None:
            # What the workers have finished meanwhile.
            self._store.find_finished()
            missing = (self._store.count_missing(index, retry_errors=retry) for index in shards)
            self._remaining = sum(missing)
            self._on_progress(Progress(self._total - self._remaining, self._total))

        self._on_progress(Progress(self._total - self._remaining, self._total))
        try:
            finished, self._generated, self._engine_record = run_on_ray(
                self._prepared, shards, stop=self._stop, on_poll=poll, on_event=self._on_event
            )
        finally:
            self._seconds = time.monotonic() - started
        return finished

    def _finish(self) -> None:
        with self._store.committing():
            # Others may have written since; receipts are made of what lies there now.
            self._store.check_shards()
            flag_duplicates(self._store)
            self._store.finish()
        self._complete = True
        self._remaining = 0

    def _count(self, outcome: Outcome) -> None:
        self._generated += 1
        self._trimmed += bool(outcome.trimmed)
        self._remaining -= 1
        self._on_progress(Progress(self._total - self._remaining, self._total))

    def _write_record(self) -> None:
        with self._store.committing():
            self._write_record_now()

    def _write_record_now(self) -> None:
        path = self._prepared.directory / RUN_NAME
        # Of a folder that is shared, the sessions of the others count too.
        previous = read_run(self._prepared.directory) if path.exists() else {}
        record = make_run_record(
            settings=self._prepared.settings,
            fingerprint=self._prepared.fingerprint,
            run_id=self._prepared.run_id,
            images=self._prepared.images,
            source=self._prepared.source,
            store=self._store,
            previous=previous,
            engine=self._engine_record,
            generated=self._generated,
            seconds=self._seconds,
            complete=self._complete or self._is_finished_elsewhere(previous),
            new_session=not self._noted,
            config=self._prepared.config.to_dict(),
            command=self._prepared.command,
        )
        write_json(path, record)
        self._noted = True

    def _is_finished_elsewhere(self, previous: dict[str, Any]) -> bool:
        """Whether another owner has said so meanwhile; whoever retries errors takes it back."""
        prepared = self._prepared
        shared = prepared.placement.shared and not prepared.config.output.retry_errors
        return shared and bool(previous.get("complete"))

    def _make_result(self, *, interrupted: bool) -> CaptionResult:
        counts, statuses, flags = count_rows(self._store)
        return CaptionResult(
            directory=self._prepared.directory,
            planned=self._total,
            done=self._total - self._remaining,
            **counts,
            statuses=statuses,
            flags=flags,
            complete=self._complete,
            interrupted=interrupted,
            elsewhere={} if self._complete else self._elsewhere,
            generated=self._generated,
            seconds=round(self._seconds, 3),
            fingerprint=self._prepared.fingerprint,
            new_images=self._prepared.new_images,
        )
