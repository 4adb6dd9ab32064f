"""`caption(...)`: dense text for many images, begun or taken up where it was left."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from captioner.decode.source_watch import DeadSourceError
from captioner.engine.protocol import Engine
from captioner.run.events import RunEvents
from captioner.run.ray import run_ranks
from captioner.run.result import CaptionResult, Progress
from captioner.run.shards import ShardRunner, open_store
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import PreparedRun, prepare_caption, refuse_other_fingerprint
from captioner.store.duplicate_flags import settle_shards
from captioner.store.journal import Outcome
from captioner.store.locks import explain_no_locks, hold_folder
from captioner.store.makers import list_recorded
from captioner.store.other_owners import wait_for_owners
from captioner.store.plan import settle_plan, write_plan
from captioner.store.run_record import (
    SessionRecord,
    is_settled,
    list_engine_versions,
    make_run_record,
)
from captioner.store.store import COMMIT_LOCK_NAME, RunStore
from data.dense.run import PLAN_NAME, RUN_NAME, read_run
from data.errors import UserError
from data.files.atomic import explain_full_disk, write_json
from data.files.locks import hold_lock
from data.settings.differences import list_differences


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
    with hold_folder(prepared.directory, shared=prepared.shared) as holds:
        if not holds:
            on_event(explain_no_locks(prepared.directory))
            prepared = replace(prepared, shared=True)
        _refuse_late(prepared)
        directory = prepared.directory
        if prepared.previous is not None and (directory / PLAN_NAME).exists():
            alone = contextlib.nullcontext()
            with hold_lock(directory, COMMIT_LOCK_NAME) if prepared.shared else alone:
                plan = settle_plan(directory, prepared.plan, about=prepared.about)
            prepared = replace(prepared, plan=plan)
        with open_store(prepared) as store:
            return _Session(prepared, store, stop, on_progress, on_event).run()


def _refuse_late(prepared: PreparedRun) -> None:
    begun = prepared.previous is None and (prepared.directory / RUN_NAME).exists()
    if begun and not prepared.shared:
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
        self._placement = prepared.config.placement
        self._retry = prepared.config.output.retry_errors
        self._store = store
        self._stop = stop
        self._on_progress = on_progress
        self._events = RunEvents(prepared.directory, owner=self._placement.owner)
        self._tell_reader = on_event
        self._runner: ShardRunner | None = None
        self._engine: Engine | None = None
        # The ranks of a cluster are sessions of their own; who starts them is none.
        self._about = SessionRecord(is_new=self._placement.cluster is None)
        self._run = prepared.previous or {}
        self._total = len(prepared.plan.records)
        self._remaining = 0
        self._generated = 0
        self._trimmed = 0
        self._seconds = 0.0
        self._elsewhere: dict[str, int] = {}

    def run(self) -> CaptionResult:
        self._begin()
        unfinished = self._store.list_unfinished(retry_errors=self._retry)
        if not unfinished and is_settled(self._run, self._store):
            if self._run.get("images") != self._prepared.images["images"]:
                # Told where they are now.
                self._write_record(complete=True)
            return self._make_result(interrupted=False)
        # Killed from here on, the run must not be taken for finished.
        self._write_record(complete=False)
        self._count_remaining(unfinished)
        before = self._remaining
        try:
            if self._placement.cluster is not None and unfinished:
                finished = self._caption_on_cluster(unfinished)
                self._generated = before - self._remaining
            else:
                finished = self._caption(unfinished)
        except BaseException as error:
            # run.json then says how far it came; what went wrong before is the thing to tell.
            with contextlib.suppress(UserError):
                self._settle()
            if isinstance(error, DeadSourceError) and self._prepared.previous is None:
                self._store.discard()
                self._events.discard()
            raise
        finally:
            if self._engine is not None:
                self._engine.close()
        self._settle()
        if self._trimmed:
            self._on_event(
                f"{self._trimmed:,} texts were cut: reasoning, or a last sentence without an end "
                "(their rows say so in `trimmed`)"
            )
        return self._make_result(interrupted=not finished and not self._run["complete"])

    def _begin(self) -> None:
        prepared = self._prepared
        with explain_full_disk(prepared.directory), self._store.committing():
            begun = (prepared.directory / RUN_NAME).exists()
            if not begun or not (prepared.directory / PLAN_NAME).exists():
                write_plan(prepared.directory, prepared.plan, about=prepared.about)
            if not begun:
                self._write_record_now(complete=False)
            elif prepared.previous is None:
                # Another owner was first; all of them were told the same, or this one is refused.
                refuse_other_fingerprint(prepared)
            self._store.check_shards()

    def _count_remaining(self, shards: list[int]) -> None:
        self._remaining = sum(
            self._store.count_missing(index, retry_errors=self._retry) for index in shards
        )

    def _order(self, shards: list[int]) -> list[int]:
        """One's own first; then those that others have not begun, or have left behind."""
        rank, size = self._placement.rank, self._placement.world_size
        return sorted(shards, key=lambda index: (index % size != rank, (index - rank) % size))

    def _start_engine(self) -> None:
        self._on_event(
            f"starting {self._prepared.settings['engine']} for {self._remaining:,} images"
        )
        # Before the first row: whoever comes later sees with which versions rows are made.
        with self._store.committing():
            self._refuse_mixture()
            self._about = replace(self._about, makes_rows=True)
            self._write_record_now(complete=False)
        self._engine = self._prepared.choice.start(self._on_event)
        self._about = replace(self._about, engine=self._engine.describe())

    def _refuse_mixture(self) -> None:
        """UserError where other versions have made rows, or another owner is about to."""
        makers = list_recorded(read_run(self._prepared.directory))
        begun = self._prepared.shared or self._remaining < self._total
        allowed = self._prepared.config.output.mix_versions or self._store.maker in makers
        if makers and begun and not allowed:
            theirs = list(makers.values())[-1]["versions"]
            ours = list_engine_versions(self._prepared.settings["engine"])
            raise UserError(
                f"the rows in {self._prepared.directory} were made with other versions "
                f"({'; '.join(list_differences(theirs, ours))}): install those again, or give "
                "--mix-versions, and the shards and the card will say which rows each made"
            )

    def _caption(self, shards: list[int]) -> bool:
        """True if no stop was asked for."""
        if self._remaining and not self._stop():
            self._start_engine()
        self._tell_progress()
        runner = self._runner = ShardRunner(
            self._prepared, self._store, self._engine, stop=self._stop, on_done=self._count
        )
        finished, before = self._fill(runner, shards), tuple[int, ...]()
        while finished and self._prepared.shared:
            # What others left behind meanwhile, or died over, until nothing more is to be had.
            left = wait_for_owners(self._store, stop=self._stop, on_event=self._on_event)
            self._elsewhere = {} if left.free else left.elsewhere
            if self._stop():
                return False
            if not left.free or left.free == before:
                break
            before = left.free
            finished = self._fill(runner, list(before))
        return finished

    def _fill(self, runner: ShardRunner, shards: list[int]) -> bool:
        started = time.monotonic()
        try:
            return runner.run(self._order(shards))
        finally:
            self._seconds += time.monotonic() - started

    def _caption_on_cluster(self, shards: list[int]) -> bool:
        """True if no stop was asked for."""

        def look() -> bool:
            """What the ranks have finished meanwhile; whether that is all of it."""
            finished = self._store.find_finished()
            self._count_remaining(shards)
            self._tell_progress()
            return finished

        started = time.monotonic()
        look()
        try:
            return run_ranks(
                self._prepared,
                len(shards),
                work=run_prepared,
                stop=self._stop,
                look=look,
                on_event=self._on_event,
            )
        finally:
            look()
            self._seconds = time.monotonic() - started

    def _count(self, outcome: Outcome) -> None:
        self._generated += 1
        self._trimmed += bool(outcome.trimmed)
        self._remaining -= 1
        assert self._runner is not None
        self._events.count(
            outcome.caption_tokens or 0,
            engine=self._engine,
            decoded=self._runner.count_decoded(),
            left=self._remaining,
        )
        self._tell_progress()

    def _on_event(self, line: str) -> None:
        self._events.tell(line)
        self._tell_reader(line)

    def _tell_progress(self) -> None:
        done = self._total - self._remaining
        self._on_progress(Progress(done, self._total, self._events.tokens_per_second))

    def _settle(self) -> None:
        """Make flags, receipts and run.json of the shards that lie there, whoever wrote them."""
        with self._store.committing():
            complete = not self._is_outgrown() and settle_shards(self._store)
            if complete:
                self._remaining = 0
            if self._placement.cluster is None:
                self._about = replace(self._about, generated=self._generated, seconds=self._seconds)
            self._write_record_now(complete=complete)

    def _is_outgrown(self) -> bool:
        """Whether another owner has added to the run since: then it is his to settle."""
        path = self._prepared.directory / RUN_NAME
        there = read_run(self._prepared.directory).get("additions", ()) if path.exists() else ()
        return len(there) > len(self._store.plan.additions)

    def _write_record(self, *, complete: bool) -> None:
        with self._store.committing():
            self._write_record_now(complete=complete)

    def _write_record_now(self, *, complete: bool) -> None:
        path = self._prepared.directory / RUN_NAME
        # Of a folder that is shared, the sessions of the others count too.
        previous = read_run(self._prepared.directory) if path.exists() else {}
        if self._is_outgrown():
            self._run = previous
            return
        self._run = make_run_record(
            self._prepared.identity,
            self._store,
            session=self._about,
            previous=previous,
            complete=complete,
        )
        write_json(path, self._run)
        self._about = replace(self._about, is_new=False)

    def _make_result(self, *, interrupted: bool) -> CaptionResult:
        run = self._run
        return CaptionResult(
            directory=self._prepared.directory,
            planned=self._total,
            done=self._total - self._remaining,
            **run["counts"],
            statuses=run["statuses"],
            flags=run["flags"],
            complete=run["complete"],
            interrupted=interrupted,
            elsewhere={} if run["complete"] else self._elsewhere,
            generated=self._generated,
            seconds=round(self._seconds, 3),
            fingerprint=self._prepared.fingerprint,
            new_images=self._prepared.new_images,
        )
