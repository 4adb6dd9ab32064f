"""One run of a session: its plan, run.json and counts, from the first check to the last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from captioner.run.result import CaptionResult
from captioner.run.writer import ShardWriter, open_store
from captioner.settings.columns import read_columns
from captioner.settings.prepare import PreparedRun, refuse_other_fingerprint
from captioner.settings.prompts import NamedText
from captioner.store.duplicate_flags import settle_shards
from captioner.store.journal import Outcome
from captioner.store.locks import explain_no_locks, hold_folder
from captioner.store.makers import list_recorded
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


class Track:
    """A run, and its state in this session."""

    def __init__(self, prepared: PreparedRun, store: RunStore) -> None:
        self.prepared = prepared
        self.store = store
        self.total = len(prepared.plan.records) * store.form.samples
        self.remaining = 0
        self.generated = 0
        self.trimmed = 0
        self.seconds = 0.0
        self.elsewhere: dict[str, int] = {}
        self._retry = prepared.config.output.retry_errors
        # The ranks of a cluster are sessions of their own; the driver is not.
        self._about = SessionRecord(is_new=prepared.config.placement.cluster is None)
        self._run: Mapping[str, Any] = prepared.previous or {}

    @property
    def name(self) -> str:
        """The name of its text among several, empty if there is only one."""
        return self.store.form.name or ""

    def begin(self) -> list[int]:
        """Write plan and run.json if missing; returns the unfinished shards."""
        with explain_full_disk(self.prepared.directory), self.store.committing():
            self._write_plan()
            self.store.check_shards()
        return self.store.list_unfinished(retry_errors=self._retry)

    def begin_plan(self) -> None:
        """Write plan and run.json if missing, so that other jobs can start.

        This does not count as a session.
        """
        self._about = replace(self._about, is_new=False)
        with explain_full_disk(self.prepared.directory), self.store.committing():
            self._write_plan()
            # For jobs that wait for additions to a growing run, of which there may be none.
            (self.prepared.directory / PLAN_NAME).touch()

    def _write_plan(self) -> None:
        prepared = self.prepared
        begun = (prepared.directory / RUN_NAME).exists()
        if not begun or not (prepared.directory / PLAN_NAME).exists():
            write_plan(prepared.directory, prepared.plan, about=prepared.about)
        if not begun:
            self._write_record(complete=False)
        elif prepared.previous is None:
            # Another owner was first; it must have the same settings, or this one is refused.
            refuse_other_fingerprint(prepared)

    def begin_work(self, unfinished: list[int]) -> bool:
        """Whether there is work to do; if so, mark the run as incomplete in run.json.

        If it is killed, the run must not look finished.
        """
        if not unfinished and is_settled(self._run, self.store):
            if self._run.get("images") != self.prepared.images["images"]:
                # Record their current location.
                self._lock_and_write(complete=True)
            return False
        self._lock_and_write(complete=False)
        self.count_remaining(unfinished)
        return True

    def count_remaining(self, shards: list[int]) -> None:
        """Count the images of these shards without an outcome."""
        missing = (self.store.count_missing(index, retry_errors=self._retry) for index in shards)
        self.remaining = sum(missing)

    def make_writer(self, on_done: Callable[[Outcome], None]) -> ShardWriter:
        """The writer for the outcomes of this run; `on_done` is called for each."""

        def count(outcome: Outcome) -> None:
            self.generated += 1
            self.trimmed += bool(outcome.trimmed)
            self.remaining -= 1
            on_done(outcome)

        return ShardWriter(self.prepared, self.store, on_done=count)

    def begin_rows(self) -> None:
        """Before the first row, record the package versions.

        Raises:
            UserError: rows were made with other versions, or another owner is about to do so.
        """
        with self.store.committing():
            self._refuse_mixture()
            self._about = replace(self._about, makes_rows=True)
            self._write_record(complete=False)

    def note_engine(self, about: Mapping[str, Any]) -> None:
        """Record the engine's description of itself."""
        self._about = replace(self._about, engine=about)

    def _refuse_mixture(self) -> None:
        makers = list_recorded(read_run(self.prepared.directory))
        begun = self.prepared.shared or self.remaining < self.total
        allowed = self.prepared.config.output.mix_versions or self.store.maker in makers
        if makers and begun and not allowed:
            theirs = list(makers.values())[-1]["versions"]
            ours = list_engine_versions(self.prepared.settings["engine"])
            raise UserError(
                f"the rows in {self.prepared.directory} were generated with other versions "
                f"({'; '.join(list_differences(theirs, ours))}): install those again, or use "
                "--mix-versions to continue; shards and card then record which version generated "
                "which rows"
            )

    def settle(self) -> None:
        """Update flags, receipts and run.json from the existing shards, whoever wrote them."""
        with self.store.committing():
            complete = not self._is_outgrown() and settle_shards(self.store)
            if complete:
                self.remaining = 0
            if self.prepared.config.placement.cluster is None:
                self._about = replace(self._about, generated=self.generated, seconds=self.seconds)
            self._write_record(complete=complete)
            # Only once: the record adds them up.
            self._about = replace(self._about, generated=0, seconds=0.0)

    def _is_outgrown(self) -> bool:
        """Whether another owner has extended the run since, and therefore has to settle it."""
        path = self.prepared.directory / RUN_NAME
        there = read_run(self.prepared.directory).get("additions", ()) if path.exists() else ()
        return len(there) > len(self.store.plan.additions)

    def _lock_and_write(self, *, complete: bool) -> None:
        with self.store.committing():
            self._write_record(complete=complete)

    def _write_record(self, *, complete: bool) -> None:
        path = self.prepared.directory / RUN_NAME
        # In a shared folder, the sessions of others count too.
        previous = read_run(self.prepared.directory) if path.exists() else {}
        if self._is_outgrown():
            self._run = previous
            return
        self._run = make_run_record(
            self.prepared.identity,
            self.store,
            session=self._about,
            previous=previous,
            complete=complete,
        )
        write_json(path, dict(self._run))
        self._about = replace(self._about, is_new=False)

    def make_result(self, *, interrupted: bool) -> CaptionResult:
        """The result; `interrupted` if a stop was requested."""
        run = self._run
        return CaptionResult(
            directory=self.prepared.directory,
            planned=self.total,
            done=self.total - self.remaining,
            **run["counts"],
            statuses=run["statuses"],
            flags=run["flags"],
            complete=run["complete"],
            interrupted=interrupted and not run["complete"],
            elsewhere={} if run["complete"] else self.elsewhere,
            generated=self.generated,
            seconds=round(self.seconds, 3),
            fingerprint=self.prepared.fingerprint,
            new_images=self.prepared.new_images,
        )


def open_track(
    prepared: PreparedRun,
    stack: contextlib.ExitStack,
    *,
    texts: Sequence[NamedText] = (),
    on_event: Callable[[str], None],
) -> Track:
    """Open a run: folder locked, plan settled and files open until `stack` is closed.

    `texts` are the texts of each image, whose columns are not stored in plans.

    Raises:
        UserError: another run is using the folder, or the folder cannot be written.
    """
    directory = prepared.directory
    if not stack.enter_context(hold_folder(directory, shared=prepared.shared)):
        on_event(explain_no_locks(directory))
        prepared = replace(prepared, shared=True)
    begun = prepared.previous is None and (directory / RUN_NAME).exists()
    if begun and not prepared.shared:
        raise UserError(f"another run has just started in {directory}: use another --out")
    if prepared.previous is not None and (directory / PLAN_NAME).exists():
        alone = contextlib.nullcontext()
        with hold_lock(directory, COMMIT_LOCK_NAME) if prepared.shared else alone:
            plan = settle_plan(directory, prepared.plan, about=prepared.about)
        if plan is not prepared.plan:
            # Another owner's.
            prepared = replace(prepared, plan=read_columns(plan, prepared.source, texts))
    return Track(prepared, stack.enter_context(open_store(prepared)))


def settle_quietly(tracks: list[Track]) -> None:
    """Record in run.json how far each run came; the earlier error is the one to report."""
    for track in tracks:
        with contextlib.suppress(UserError):
            track.settle()
