"""`caption(...)`: generate dense text for many images, or resume where a run stopped."""

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.decode.source_watch import DeadSourceError
from captioner.engine.protocol import Engine
from captioner.engine.stopping import StoppedError, heeding
from captioner.run.events import RunEvents
from captioner.run.ray import run_ranks
from captioner.run.result import CaptionResult, Progress, sum_results
from captioner.run.shards import ShardRunner
from captioner.run.together import prepare_either, prepare_together
from captioner.run.track import Track, open_track, settle_quietly
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import PreparedRun
from captioner.settings.prompts import TEXTS_NAME
from captioner.settings.replaced import put_aside
from captioner.settings.texts import PreparedTexts, prepare_again, write_texts
from captioner.store.journal import Outcome
from captioner.store.locks import hold_folder
from captioner.store.other_owners import wait_for_owners


def caption(
    config: CaptionConfig | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> CaptionResult:
    """Write one row per image of `images` into Parquet shards in `out`.

    Call it again with the same settings to resume; nothing is generated twice. Settings are a
    `CaptionConfig` or its fields as keyword arguments, of which `model` and `images` are required.
    With `prompts`, each text gets its own folder in `out`. `stop` is called between steps to ask
    whether to stop; `on_event` receives messages, `on_progress` the counts.

    Raises:
        UserError: a problem that the caller can fix; finished texts are kept.
    """
    config = config or CaptionConfig.of(**options)
    told: dict[str, Any] = {"stop": stop, "on_progress": on_progress, "on_event": on_event}
    return run_either(prepare_together(config, stop=stop, on_event=on_event), **told)


def run_either(prepared: PreparedRun | PreparedTexts, **hooks: Any) -> CaptionResult:
    """`run_prepared` or `run_texts`."""
    if isinstance(prepared, PreparedTexts):
        return run_texts(prepared, **hooks)
    return run_prepared(prepared, **hooks)


def run_prepared(prepared: PreparedRun, **hooks: Any) -> CaptionResult:
    """Execute a prepared run. `hooks` are `stop`, `on_progress` and `on_event` of `caption`."""
    (result,) = _run([[prepared]], prepared.directory, _Hooks(**hooks))
    return result


def run_texts(prepared: PreparedTexts, **hooks: Any) -> CaptionResult:
    """`run_prepared` for several texts per image, one model after another."""
    directory, told = prepared.directory, _Hooks(**hooks)
    with hold_folder(directory, shared=prepared.shared):
        if lines := put_aside(prepared):
            for line in lines:
                told.on_event(line)
            prepared = prepare_again(prepared)
        write_texts(prepared)
        try:
            results = _run(prepared.passes, directory, told)
        except DeadSourceError:
            if all(run.previous is None for one in prepared.passes for run in one):
                (directory / TEXTS_NAME).unlink(missing_ok=True)
            raise
    made = [run.text.name for one in prepared.passes for run in one if run.text]
    found = dict(zip(made, results, strict=True))
    return sum_results(directory, {name: found[name] for name in prepared.names})


def run_rank(config: CaptionConfig, **hooks: Any) -> None:
    """Run a rank on a cluster, whose driver has written the plan."""
    run_either(prepare_either(config).replace_each(shared=True), **hooks)


@dataclass(frozen=True)
class _Hooks:
    """Callbacks of a session; see `caption`."""

    stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[Progress], None] = lambda _: None
    on_event: Callable[[str], None] = lambda _: None


def _run(
    passes: Sequence[Sequence[PreparedRun]], directory: Path, hooks: _Hooks
) -> list[CaptionResult]:
    """Execute all runs of a session, pass by pass; returns their results in this order."""
    with contextlib.ExitStack() as stack:
        texts = [prepared.text for one in passes for prepared in one if prepared.text]
        opened = [
            [open_track(prepared, stack, texts=texts, on_event=hooks.on_event) for prepared in one]
            for one in passes
        ]
        session = _Session(opened, directory, hooks)
        session.run()
    return [track.make_result(interrupted=session.interrupted) for one in opened for track in one]


class _Session:
    """One session of a run, or of the runs of several texts, which share the engine."""

    def __init__(self, passes: Sequence[Sequence[Track]], directory: Path, hooks: _Hooks) -> None:
        self._passes = passes
        self._tracks = [track for one in passes for track in one]
        self._stop = hooks.stop
        self._hooks = hooks
        self._placement = self._tracks[0].prepared.config.placement
        self._events = RunEvents(directory, owner=self._placement.owner)
        self._engine: Engine | None = None
        self._runner: ShardRunner | None = None
        self.interrupted = False

    def run(self) -> None:
        """Raises UserError; however it ends, run.json records the progress."""
        unfinished = {track: track.begin() for track in self._tracks}
        for line in (line for track in self._tracks for line in track.store.changed):
            self._on_event(line)
        busy = {track: left for track, left in unfinished.items() if track.begin_work(left)}
        try:
            if self._placement.cluster is not None and any(busy.values()):
                finished = self._caption_on_cluster(busy)
            else:
                finished = all(self._caption(one, busy) for one in self._passes)
        except BaseException as error:
            settle_quietly(list(busy))
            self._tell_end("failed", busy)
            if isinstance(error, DeadSourceError):
                self._discard()
            raise
        finally:
            self._close_engine()
        self.interrupted = not finished
        trimmed = sum(track.trimmed for track in self._tracks)
        if trimmed:
            self._on_event(
                f"{trimmed:,} texts were cut: reasoning or an incomplete last sentence was removed "
                "(see the column `trimmed`)"
            )
        self._tell_end("finished" if finished else "interrupted", busy)
        for track in busy:
            track.settle()

    def _discard(self) -> None:
        if all(track.prepared.previous is None for track in self._tracks):
            for track in self._tracks:
                track.store.discard()
            self._events.discard()

    def _tell_end(self, ended: str, busy: Collection[Track]) -> None:
        # The ranks of a cluster report themselves, and a rank that found nothing to do has no
        # report.
        if busy and self._placement.cluster is None:
            if self._engine is not None:
                self._events.note_load(self._engine)
            self._events.close(ended, left=sum(track.remaining for track in self._tracks))

    def _close_engine(self) -> None:
        if self._engine is not None:
            self._events.note_load(self._engine)
            self._engine.close()
            self._engine = None

    def _order(self, shards: Iterable[int]) -> list[int]:
        """Own shards first, then those that others have not started or have abandoned."""
        rank, size = self._placement.rank, self._placement.world_size
        return sorted(shards, key=lambda index: (index % size != rank, (index - rank) % size))

    def _start_engine(self, tracks: Sequence[Track]) -> None:
        prepared, left = tracks[0].prepared, sum(track.remaining for track in tracks)
        names = ", ".join(track.name for track in tracks if track.name)
        what = f"texts ({names}) with {prepared.settings['model']}" if names else "images"
        self._on_event(f"starting {prepared.settings['engine']} for {left:,} {what}")
        for track in tracks:
            track.begin_rows()
        with heeding(self._stop):
            self._engine = prepared.choice.start(self._on_event)
        for track in tracks:
            track.note_engine(self._engine.describe())

    def _caption(self, one: Sequence[Track], busy: Mapping[Track, list[int]]) -> bool:
        """Generate the texts of one model; True if no stop was requested."""
        tracks = [track for track in one if track in busy]
        if not tracks:
            return True
        if any(track.remaining for track in tracks) and not self._stop():
            with contextlib.suppress(StoppedError):
                self._start_engine([track for track in tracks if track.remaining])
        self._tell_progress()
        self._runner = ShardRunner(
            [track.make_writer(self._count) for track in tracks],
            self._engine,
            stores={track.name: track.store for track in self._tracks},
            stop=self._stop,
        )
        finished = self._fill(tracks, [busy[track] for track in tracks])
        before: list[tuple[int, ...]] = []
        while finished and tracks[0].prepared.shared:
            # Take over what others have abandoned meanwhile, until nothing is left.
            free = [self._find_free(track) for track in tracks]
            if self._stop():
                return False
            if not any(free) or free == before:
                break
            before = free
            finished = self._fill(tracks, free)
        # Free the memory for the next model.
        self._close_engine()
        return finished

    def _find_free(self, track: Track) -> tuple[int, ...]:
        assert self._runner is not None
        left = wait_for_owners(track.store, stop=self._stop, on_event=self._on_event)
        free = tuple(i for i in left.free if self._runner.can_read(track.prepared, i))
        track.elsewhere = {} if free else left.elsewhere
        return free

    def _fill(self, tracks: Sequence[Track], shards: Sequence[Collection[int]]) -> bool:
        assert self._runner is not None
        started = time.monotonic()
        try:
            return self._runner.run(self._order(set().union(*shards)), shards)
        finally:
            for track in tracks:
                track.seconds += time.monotonic() - started

    def _caption_on_cluster(self, busy: Mapping[Track, list[int]]) -> bool:
        """True if no stop was requested."""
        before = {track: track.remaining for track in busy}

        def look() -> bool:
            """Update the counts from what the ranks have finished; True if that is everything."""
            finished = [track.store.find_finished() for track in busy]
            for track, shards in busy.items():
                track.count_remaining(shards)
            self._tell_progress()
            return all(finished)

        started = time.monotonic()
        look()
        try:
            return run_ranks(
                self._tracks[0].prepared,
                max(map(len, busy.values())),
                work=run_rank,
                stop=self._stop,
                look=look,
                on_event=self._on_event,
            )
        finally:
            look()
            for track in busy:
                track.seconds = time.monotonic() - started
                track.generated = before[track] - track.remaining

    def _count(self, outcome: Outcome) -> None:
        assert self._runner is not None
        warning = self._events.count(
            outcome.caption_tokens or 0,
            engine=self._engine,
            decoded=self._runner.count_decoded(),
            left=sum(track.remaining for track in self._tracks),
        )
        if warning is not None:
            self._on_event(warning)
        self._tell_progress()

    def _on_event(self, line: str) -> None:
        self._events.tell(line)
        self._hooks.on_event(line)

    def _tell_progress(self) -> None:
        total = sum(track.total for track in self._tracks)
        done = total - sum(track.remaining for track in self._tracks)
        speed, load = self._events.tokens_per_second, self._events.load
        self._hooks.on_progress(Progress(done, total, speed, load))
