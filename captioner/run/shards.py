"""The main loop: passes decoded images to the engine, and its texts to the writers.

An image is decoded once, however many texts it has. A text that reads another one of the same image
is requested as soon as that one is known.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from captioner.decode.pool import Decoded, DecodePool, Job
from captioner.decode.source_watch import WITNESSES, SourceGoneError, SourceWatch
from captioner.decode.stream import attach_images
from captioner.engine.protocol import Ask, Engine, Generation, Request
from captioner.llava.sampling import derive_seed
from captioner.run.photo import (
    Find,
    ImageKey,
    NotYetError,
    Pending,
    Photo,
    make_ask,
    make_outcome,
)
from captioner.run.probe import ask_alone
from captioner.run.writer import Place, ShardWriter
from captioner.settings.prepare import PreparedRun
from captioner.settings.template import UnfilledError
from captioner.store.journal import Outcome, make_key
from captioner.store.store import RunStore
from data.errors import UserError
from data.images import Status
from data.sources import ImageRecord

# With nothing in flight, only the decoder is waited for; stop requests must be noticed.
_WAIT_SECONDS = 0.2
# After a stop: how long requests in flight may finish; job schedulers usually wait longer.
GRACE_SECONDS = 10.0
# After the source is gone: there is no hurry, but an engine may hang.
_LAST_SECONDS = 60.0
_MOST_PHOTOS_AHEAD = 64


_Watch = SourceWatch[Decoded]


class ShardRunner:
    """Fills the unfinished shards of runs with the same plan, in order, with one engine."""

    def __init__(
        self,
        writers: Sequence[ShardWriter],
        engine: Engine | None,
        *,
        stores: Mapping[str, RunStore],
        stop: Callable[[], bool],
    ) -> None:
        """`writers` come after those whose texts they read; `stores` has all texts by their names.

        `engine` can be None if nothing is left to caption; `stop` is polled between steps.
        """
        self._writers = writers
        self._engine = engine
        self._stores = stores
        self._forms = {name: store.form for name, store in stores.items()}
        self._prepared = writers[0].prepared
        self._source = self._prepared.source
        self._stop = stop
        self._pending: dict[str, Pending] = {}
        self._photos: dict[str, Photo] = {}
        self._told: dict[int, dict[str, Find]] = {}
        self._late: list[Generation] = []
        self._lost = False
        # Number of decoded images that wait for the engine.
        self.count_decoded: Callable[[], int] = lambda: 0

    def run(self, shards: Sequence[int], unfinished: Sequence[Collection[int]]) -> bool:
        """Run until these shards are committed or a stop is requested; True if none was requested.

        `unfinished` are the shards of each writer. A shard that another owner has is skipped, and
        so is one that reads it.

        Raises:
            UserError: full disk, dead engine, an engine that fails every image, a source that is
                gone. Journals are kept.
        """
        try:
            lookahead = max(8, self._engine.window if self._engine else 0)
            preprocessing = self._prepared.choice.preprocessing
            if preprocessing.size is None:
                # Whole photos: several megabytes each.
                lookahead = min(lookahead, _MOST_PHOTOS_AHEAD)
            with DecodePool(
                attach_images(self._list_jobs(shards, unfinished), self._source),
                source=self._source,
                preprocessing=preprocessing,
                workers=self._prepared.workers,
                lookahead=lookahead,
            ) as pool:
                self.count_decoded = lambda: pool.ready
                self._read = pool.read
                watch: _Watch = SourceWatch(
                    self._source, can_read=pool.can_read, find_read=self._find_read
                )
                self._work(pool, watch)
            return not any(writer.open_shards for writer in self._writers) and not self._stop()
        finally:
            for writer in self._writers:
                writer.close()

    def _find_read(self) -> Sequence[ImageRecord]:
        found = (writer.store.find_done(WITNESSES) for writer in self._writers)
        return next(filter(None, found), [])

    def _list_jobs(
        self, shards: Sequence[int], unfinished: Sequence[Collection[int]]
    ) -> Iterator[Job]:
        """The missing images, shard by shard; each shard is opened when its turn comes."""
        for index in shards:
            at_work = {index}.union(*(writer.open_shards for writer in self._writers))
            self._told = {index: self._told.get(index, {}) for index in at_work}
            for writer, own in zip(self._writers, unfinished, strict=True):
                if index in own and self.can_read(writer.prepared, index):
                    shard = writer.open(index)
                    if shard is not None:
                        self._told[index][str(writer.form.name)] = shard.find
            for image in self._writers[0].store.plan.select_shard(index):
                if self._list_places(index, image.sample_id):
                    yield Job(ImageKey(index, image), image.address)

    def _list_places(self, index: int, sample_id: str) -> list[Place]:
        places = (writer.list_places(index, sample_id) for writer in self._writers)
        return list(chain.from_iterable(places))

    def can_read(self, prepared: PreparedRun, index: int) -> bool:
        """Whether everything that a run reads for a shard exists or is being generated here."""
        told = self._told.setdefault(index, {})
        for name in () if prepared.text is None else prepared.text.reads:
            if name not in told:
                finished = self._stores[name].read_finished(index)
                if finished is None:
                    return False
                told[name] = finished.get
        return True

    def _work(self, pool: DecodePool, watch: _Watch) -> None:
        try:
            while not self._stop():
                self._submit_decoded(pool, watch)
                if self._pending:
                    self._collect()
                elif pool.exhausted:
                    self._finish_failures(watch.resolve())
                    self._finish_deferred()
                    if not self._pending:
                        return
                elif self._engine is not None and not self._engine.room:
                    # It is restarted with nothing in flight.
                    self._collect()
            self._drain(GRACE_SECONDS)
        except SourceGoneError:
            self._lost = True
            self._drain(_LAST_SECONDS)
            raise
        except UserError:
            # The signal that stopped us also reached the engine; its images are done next time.
            if not self._stop():
                raise

    def _drain(self, seconds: float) -> None:
        """At an early end, save what is about to finish."""
        if self._engine is not None:
            self._engine.drain()
        deadline = time.monotonic() + seconds
        while self._pending and time.monotonic() < deadline:
            self._collect()

    def _submit_decoded(self, pool: DecodePool, watch: _Watch) -> None:
        """Submit as many images as the engine has room for; only wait if it is idle."""
        most = len(self._pending) + (self._engine.room if self._engine else 1)
        while len(self._pending) < most and not pool.exhausted and not self._stop():
            decoded = pool.take(timeout=0.0 if self._pending else _WAIT_SECONDS)
            if decoded is None:
                return
            self._take(decoded, watch)

    def _take(self, decoded: Decoded, watch: _Watch) -> None:
        key: ImageKey = decoded.key
        image = decoded.image
        if image is None or decoded.sha256 is None:
            self._finish_failures(watch.note_failure(decoded, decoded.error or ""))
            return
        self._finish_failures(watch.note_read(key.image))
        # The photo has it now; otherwise every image in flight would be in memory twice.
        decoded.image = None
        waiting = self._list_places(key.index, key.image.sample_id)
        photo = self._photos[key.image.sample_id] = Photo(decoded, image, waiting)
        self._ask_ready(photo)

    def _ask_ready(self, photo: Photo) -> None:
        """Request the texts of a photo whose inputs are available."""
        for place in tuple(photo.waiting):
            # Texts that could not be requested were finished, with those that wait for them.
            if place not in photo.waiting:
                continue
            try:
                ask = make_ask(photo, place, self._told[place.index], self._forms)
            except NotYetError:
                continue
            except UnfilledError as reason:
                photo.waiting.remove(place)
                outcome = photo.make_outcome(place, Status.ENGINE_ERROR, f"not asked: {reason}")
                self._finish(place, outcome)
                continue
            photo.waiting.remove(place)
            self._submit(photo, place, ask)
        again = any(writer.policy.retry_flags for writer in self._writers)
        if not photo.waiting:
            self._photos.pop(photo.key.image.sample_id, None)
            if not again:
                # The engine has it.
                photo.image = None

    def _submit(self, photo: Photo, place: Place, ask: Ask | None) -> None:
        self._send(Pending(photo, place, self._make_request(photo, place, ask)))

    def _make_request(self, photo: Photo, place: Place, ask: Ask | None) -> Request:
        assert photo.image is not None and photo.decoded.sha256 is not None
        key = place.writer.form.name_request(make_key(photo.key.image.sample_id, place.sample))
        seed = place.writer.prepared.config.text.seed
        return Request(
            key=key,
            image=photo.image,
            image_sha256=photo.decoded.sha256,
            seed=derive_seed(seed, key),
            ask=ask,
        )

    def _send(self, pending: Pending) -> None:
        assert self._engine is not None
        self._pending[pending.request.key] = pending
        self._engine.submit(pending.request)

    def _collect(self) -> None:
        assert self._engine is not None
        came, self._late = self._late, []
        for generation in came or self._engine.collect():
            pending = self._pending[generation.key]
            if generation.error is None:
                self._take_text(pending, generation)
            elif generation.aborted or self._lost or self._stop():
                # The signal makes an engine abort its requests: no row, they are done next time.
                del self._pending[generation.key]
                if generation.postponed:
                    pending.place.writer.leave(pending.place.index)
            elif pending.tries:
                # The second attempt failed; the first one is kept.
                self._keep_best(pending)
            else:
                self._fail(pending, generation.error + pending.hint)

    def _take_text(self, pending: Pending, generation: Generation) -> None:
        policy = pending.place.writer.policy
        pending.tries.append(generation)
        if len(pending.tries) > 1 or not policy.count_faults(generation):
            self._keep_best(pending)
        elif self._lost or self._stop():
            # No row without its second attempt: the result must not depend on when we were stopped.
            del self._pending[generation.key]
        else:
            self._ask_again(pending)

    def _ask_again(self, pending: Pending) -> None:
        writer, photo = pending.place.writer, pending.photo
        assert photo.image is not None
        seed, key = writer.prepared.config.text.seed, pending.request.key
        pending.request = replace(
            pending.request,
            seed=derive_seed(seed, key, attempt=2),
            repetition_penalty=writer.policy.repetition_penalty,
            attempt=2,
        )
        self._send(pending)

    def _keep_best(self, pending: Pending) -> None:
        """All attempts have finished: keep the best."""
        try:
            outcome = pending.conclude()
        except ValueError as reason:
            self._fail(pending, f"the answer is not valid{reason}")
            return
        del self._pending[pending.request.key]
        if outcome.caption:
            self._wake(pending.place.writer.note_text())
        self._defer(pending.place, outcome, "the answer is empty")

    def _fail(self, pending: Pending, error: str) -> None:
        del self._pending[pending.request.key]
        outcome = pending.photo.make_outcome(pending.place, Status.ENGINE_ERROR, error)
        self._defer(pending.place, replace(outcome, attempt=1), error)

    def _defer(self, place: Place, outcome: Outcome, error: str) -> None:
        if place.writer.defer(place.index, outcome):
            self._wake([outcome])
        elif place.writer.doubts:
            if not self._still_answers(place.writer):
                raise place.writer.explain_hopeless(error)
            self._wake(place.writer.note_text())

    def _still_answers(self, writer: ShardWriter) -> bool:
        """Whether the engine still returns a text for an image that already has one."""
        known, text = writer.store.find_done(1), writer.prepared.text
        if not known or (text is not None and text.reads):
            return False
        decoded = replace(self._read(known[0].address), key=ImageKey(-1, known[0]))
        if decoded.image is None:
            return False
        photo, place = Photo(decoded, decoded.image, []), Place(writer, -1, writer.form.numbers[0])
        assert self._engine is not None
        request = self._make_request(photo, place, make_ask(photo, place, {}, {}))
        found, others = ask_alone(self._engine, request, stop=self._stop)
        self._late += others
        if found is None or found.error is not None:
            return False
        return bool(writer.policy.finish_text(found)[0])

    def _finish_deferred(self) -> None:
        for writer in self._writers:
            self._wake(writer.finish_deferred())

    def _finish_failures(self, failures: Iterable[Decoded]) -> None:
        for decoded in failures:
            key: ImageKey = decoded.key
            for place in self._list_places(key.index, key.image.sample_id):
                outcome = make_outcome(decoded, place, decoded.status, decoded.error)
                place.writer.finish(place.index, outcome)

    def _finish(self, place: Place, outcome: Outcome) -> None:
        place.writer.finish(place.index, outcome)
        self._wake([outcome])

    def _wake(self, outcomes: Iterable[Outcome]) -> None:
        """Request the texts that read these, unless the run is ending."""
        for outcome in outcomes:
            photo = self._photos.get(outcome.sample_id)
            if photo is not None and not (self._lost or self._stop()):
                self._ask_ready(photo)
