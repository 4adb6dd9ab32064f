"""The loop: decoded images into the engine, its texts into journals, full shards onto the disk."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from captioner.decode.pool import Decoded, DecodePool, Job
from captioner.decode.source_watch import WITNESSES, SourceGoneError, SourceWatch
from captioner.decode.stream import attach_images
from captioner.engine.protocol import Engine, Generation, Request
from captioner.llava.sampling import derive_seed
from captioner.settings.prepare import PreparedRun
from captioner.store.journal import Outcome
from captioner.store.leases import Leases
from captioner.store.store import LEASES_FOLDER, OpenShard, RunStore
from data.errors import UserError
from data.images import Status
from data.sources import ImageRecord

# With nothing in flight there is only the decoder to wait for; a stop must be heard meanwhile.
_WAIT_SECONDS = 0.2
# After a stop: what is in flight may finish for as long as job schedulers commonly wait, less some.
GRACE_SECONDS = 10.0
# After the source has gone: nobody waits, but an engine may hang.
_LAST_SECONDS = 60.0
# So many failures of the engine before its first text are no longer the images' fault.
_HOPELESS = 16
_MOST_PHOTOS_AHEAD = 64


@dataclass(frozen=True)
class ImageKey:
    """Which image of which shard a job is for."""

    shard: OpenShard
    image: ImageRecord


_Watch = SourceWatch[tuple[ImageKey, Outcome]]


@dataclass
class _Pending:
    """An image in the engine; `image` is kept where a second try may be asked for."""

    decoded: Decoded
    image: Image.Image | None
    tries: list[Generation] = field(default_factory=list)

    @property
    def key(self) -> ImageKey:
        key: ImageKey = self.decoded.key
        return key


class ShardRunner:
    """Fills unfinished shards of a store, in order, with one engine."""

    def __init__(
        self,
        prepared: PreparedRun,
        store: RunStore,
        engine: Engine | None,
        *,
        stop: Callable[[], bool],
        on_done: Callable[[Outcome], None],
    ) -> None:
        """`engine` may be None if nothing is left to caption; `stop` is asked between steps."""
        self._prepared = prepared
        self._store = store
        self._source = prepared.source
        self._policy = prepared.config.text.policy
        self._engine = engine
        self._retry_errors = prepared.config.output.retry_errors
        self._stop = stop
        self._on_done = on_done
        self._open: dict[int, OpenShard] = {}
        self._pending: dict[str, _Pending] = {}
        # Failures and empty texts, kept back until the engine has shown that it works at all.
        self._deferred: list[tuple[ImageKey, Outcome]] = []
        self._engine_works = False
        self._lost = False
        # Images that are decoded and wait for the engine.
        self.count_decoded: Callable[[], int] = lambda: 0

    def run(self, shards: Sequence[int]) -> bool:
        """Work until these shards are committed or a stop is asked for; True if none was asked for.

        A shard that another owner has is passed over.

        Raises:
            UserError: full disk, dead engine, an engine that fails every image, images that are
                gone all at once. Journals are kept.
        """
        try:
            lookahead = max(8, self._engine.window if self._engine else 0)
            preprocessing = self._prepared.choice.preprocessing
            if preprocessing.size is None:
                # Whole photos: some megabytes each.
                lookahead = min(lookahead, _MOST_PHOTOS_AHEAD)
            with DecodePool(
                attach_images(self._list_jobs(shards), self._source),
                source=self._source,
                preprocessing=preprocessing,
                workers=self._prepared.workers,
                lookahead=lookahead,
            ) as pool:
                self.count_decoded = lambda: pool.ready
                watch: _Watch = SourceWatch(
                    self._source,
                    can_read=pool.can_read,
                    find_read=lambda: self._store.find_done(WITNESSES),
                )
                self._work(pool, watch)
            if not self._stop():
                self._finish_deferred()
            return not self._open and not self._stop()
        finally:
            for shard in self._open.values():
                shard.close()
            self._open.clear()

    def _list_jobs(self, shards: Sequence[int]) -> Iterator[Job]:
        """The missing images of one shard after another; each is opened when its turn comes."""
        for index in shards:
            if not self._store.claim(index, retry_errors=self._retry_errors):
                continue
            shard = self._store.open_shard(index, retry_errors=self._retry_errors)
            self._open[index] = shard
            missing = set(shard.missing)
            if not missing:
                self._commit(shard)
            for image in self._store.plan.select_shard(index):
                if image.sample_id in missing:
                    yield Job(ImageKey(shard, image), image.address)

    def _work(self, pool: DecodePool, watch: _Watch) -> None:
        try:
            while not self._stop():
                self._submit_decoded(pool, watch)
                if self._pending:
                    self._collect()
                elif pool.exhausted:
                    self._finish_all(watch.resolve())
                    return
                elif self._engine is not None and not self._engine.room:
                    # It is started anew with nothing in it.
                    self._collect()
            self._drain(GRACE_SECONDS)
        except SourceGoneError:
            self._lost = True
            self._drain(_LAST_SECONDS)
            raise
        except UserError:
            # The signal that stopped us reached the engine too; its images are done next time.
            if not self._stop():
                raise

    def _drain(self, seconds: float) -> None:
        """At an early end: save what is about to finish."""
        if self._engine is not None:
            self._engine.drain()
        deadline = time.monotonic() + seconds
        while self._pending and time.monotonic() < deadline:
            self._collect()

    def _submit_decoded(self, pool: DecodePool, watch: _Watch) -> None:
        """Give the engine what it has room for; wait only if the engine has nothing."""
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
            outcome = _make_outcome(key, decoded, decoded.status, decoded.error)
            self._finish_all(watch.note_failure((key, outcome), decoded.error or ""))
            return
        self._finish_all(watch.note_read(key.image))
        pending = _Pending(decoded, image)
        # The engine has it then: the window would otherwise hold every picture twice.
        decoded.image = None
        self._pending[key.image.sample_id] = pending
        self._submit(pending)

    def _submit(self, pending: _Pending) -> None:
        assert self._engine is not None and pending.image is not None
        assert pending.decoded.sha256 is not None
        name, attempt = pending.key.image.sample_id, len(pending.tries) + 1
        seed = self._prepared.config.text.seed
        again = attempt > 1
        request = Request(
            key=name,
            image=pending.image,
            image_sha256=pending.decoded.sha256,
            seed=derive_seed(seed, name, attempt=attempt),
            repetition_penalty=self._policy.repetition_penalty if again else 1.0,
        )
        if again or not self._policy.retry_flags:
            pending.image = None
        self._engine.submit(request)

    def _collect(self) -> None:
        assert self._engine is not None
        for generation in self._engine.collect():
            pending = self._pending[generation.key]
            if generation.error is None:
                self._take_text(pending, generation)
            elif generation.aborted or self._lost or self._stop():
                # An engine that hears the signal ends what it has: no row, it is done next time.
                del self._pending[generation.key]
            elif pending.tries:
                # The second try failed; the first is there.
                self._keep_best(pending)
            else:
                del self._pending[generation.key]
                self._fail(pending, generation.error)

    def _take_text(self, pending: _Pending, generation: Generation) -> None:
        pending.tries.append(generation)
        if len(pending.tries) > 1 or not self._policy.count_faults(generation):
            self._keep_best(pending)
        elif self._lost or self._stop():
            # No row without its second try: what is kept must not depend on when we were stopped.
            del self._pending[generation.key]
        else:
            self._submit(pending)

    def _keep_best(self, pending: _Pending) -> None:
        """The texts of an image are there: keep the best."""
        del self._pending[pending.key.image.sample_id]
        attempt, generation = self._policy.choose(pending.tries)
        text, trimmed = self._policy.finish_text(generation)
        outcome = replace(
            _make_outcome(pending.key, pending.decoded, Status.OK, None),
            caption=text,
            finish_reason=generation.finish_reason,
            prompt_tokens=generation.prompt_tokens,
            caption_tokens=generation.caption_tokens,
            attempt=attempt,
            trimmed=trimmed,
        )
        if text:
            self._engine_works = True
            self._finish_deferred()
        self._defer(pending.key, outcome, "it answered nothing")

    def _fail(self, pending: _Pending, error: str) -> None:
        outcome = _make_outcome(pending.key, pending.decoded, Status.ENGINE_ERROR, error)
        self._defer(pending.key, replace(outcome, attempt=1), error)

    def _defer(self, key: ImageKey, outcome: Outcome, error: str) -> None:
        """Finish it, but keep it back before the first text: the engine may not work at all."""
        if self._engine_works:
            self._finish(key, outcome)
            return
        self._deferred.append((key, outcome))
        if len(self._deferred) >= _HOPELESS:
            raise UserError(
                f"the engine failed on each of the first {len(self._deferred)} images, "
                f"the last time with: {error}"
            )

    def _finish_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        self._finish_all(deferred)

    def _finish_all(self, failures: Iterable[tuple[ImageKey, Outcome]]) -> None:
        for key, outcome in failures:
            self._finish(key, outcome)

    def _finish(self, key: ImageKey, outcome: Outcome) -> None:
        key.shard.add(outcome)
        self._on_done(outcome)
        if not key.shard.missing:
            self._commit(key.shard)

    def _commit(self, shard: OpenShard) -> None:
        self._store.commit(shard)
        del self._open[shard.index]


def _make_outcome(key: ImageKey, decoded: Decoded, status: str, error: str | None) -> Outcome:
    return Outcome(
        sample_id=key.image.sample_id,
        status=status,
        error=error,
        width=decoded.width,
        height=decoded.height,
        image_sha256=decoded.sha256,
    )


@contextlib.contextmanager
def open_store(prepared: PreparedRun) -> Iterator[RunStore]:
    """The files of a run; where others write into the folder too, under leases."""
    with contextlib.ExitStack() as stack:
        leases = None
        if prepared.shared:
            folder = prepared.directory / LEASES_FOLDER
            leases = stack.enter_context(Leases(folder, owner=prepared.config.placement.owner))
        yield RunStore(
            prepared.directory,
            prepared.plan,
            run_id=prepared.run_id,
            engine=prepared.settings["engine"],
            run_seed=prepared.settings["sampling"]["seed"],
            metadata=prepared.metadata,
            leases=leases,
        )
