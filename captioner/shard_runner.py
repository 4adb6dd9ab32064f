"""The loop: decoded images into the engine, its texts into journals, full shards onto the disk."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from captioner.decode_pool import Decoded, DecodePool, Job
from captioner.engines.protocol import Engine, Generation, Request
from captioner.journal import Record
from captioner.preprocess import Preprocessing
from captioner.sampling import derive_seed
from captioner.store import OpenShard, RunStore
from data.errors import UserError
from data.sources import ImageRecord
from data.status import Status

# With nothing in flight there is only the decoder to wait for; a stop must be heard meanwhile.
_WAIT_SECONDS = 0.2
# After a stop: what is in flight may finish for as long as job schedulers commonly wait, less some.
GRACE_SECONDS = 10.0
# So many failures of the engine before its first text are no longer the images' fault.
_HOPELESS = 16


@dataclass(frozen=True)
class _Key:
    shard: OpenShard
    image: ImageRecord


class ShardRunner:
    """Fills the unfinished shards of a store, in order, with one engine."""

    def __init__(
        self,
        store: RunStore,
        *,
        images_folder: Path,
        preprocessing: Preprocessing,
        engine: Engine | None,
        run_seed: int,
        workers: int,
        retry_errors: bool,
        stop: Callable[[], bool],
        on_done: Callable[[Record], None],
    ) -> None:
        """`engine` may be None if nothing is left to caption; `stop` is asked between steps."""
        self._store = store
        self._folder = images_folder
        self._preprocessing = preprocessing
        self._engine = engine
        self._run_seed = run_seed
        self._workers = workers
        self._retry_errors = retry_errors
        self._stop = stop
        self._on_done = on_done
        self._open: dict[int, OpenShard] = {}
        self._flying: dict[str, tuple[_Key, Decoded]] = {}
        # Failures of the engine, kept back until it has shown that it works at all.
        self._held: list[tuple[_Key, Record]] = []
        self._engine_works = False

    def run(self) -> bool:
        """Work until all is committed or a stop is asked for; True if all is committed.

        Raises:
            UserError: full disk, dead engine, an engine that fails every image. Journals are kept.
        """
        try:
            lookahead = max(8, self._engine.window if self._engine else 0)
            with DecodePool(
                self._list_jobs(),
                preprocessing=self._preprocessing,
                workers=self._workers,
                lookahead=lookahead,
            ) as pool:
                self._work(pool)
            if not self._stop():
                self._release_held()
            return not self._open and not self._stop()
        finally:
            for shard in self._open.values():
                shard.close()

    def _list_jobs(self) -> Iterator[Job]:
        """The missing images of one shard after another; each is opened when its turn comes."""
        for index in self._store.list_unfinished(retry_errors=self._retry_errors):
            shard = self._store.open_shard(index, retry_errors=self._retry_errors)
            self._open[index] = shard
            missing = set(shard.missing)
            if not missing:
                self._commit(shard)
            for image in self._store.plan.select_shard(index):
                if image.sample_id in missing:
                    yield Job(_Key(shard, image), image.locate(self._folder))

    def _work(self, pool: DecodePool) -> None:
        try:
            while not self._stop():
                self._feed(pool)
                if self._flying:
                    self._collect()
                elif pool.exhausted:
                    return
            self._drain()
        except UserError:
            # The signal that stopped us reached the engine too; its images are done next time.
            if not self._stop():
                raise

    def _drain(self) -> None:
        """After a stop: save what is about to finish."""
        deadline = time.monotonic() + GRACE_SECONDS
        while self._flying and time.monotonic() < deadline:
            self._collect()

    def _feed(self, pool: DecodePool) -> None:
        """Fill the engine's window with what is decoded; wait only if the engine has nothing."""
        window = self._engine.window if self._engine else 1
        while len(self._flying) < window and not pool.exhausted and not self._stop():
            decoded = pool.take(timeout=0.0 if self._flying else _WAIT_SECONDS)
            if decoded is None:
                return
            self._submit(decoded)

    def _submit(self, decoded: Decoded) -> None:
        key: _Key = decoded.key
        if decoded.image is None or decoded.sha256 is None:
            self._finish(key, _make_record(decoded, status=decoded.status, error=decoded.error))
            return
        assert self._engine is not None
        self._flying[key.image.sample_id] = key, decoded
        self._engine.submit(
            Request(
                key=key.image.sample_id,
                image=decoded.image,
                image_sha256=decoded.sha256,
                seed=derive_seed(self._run_seed, key.image.sample_id),
            )
        )
        # The engine has it: the window would otherwise hold every picture twice.
        decoded.image = None

    def _collect(self) -> None:
        assert self._engine is not None
        for generation in self._engine.collect():
            key, decoded = self._flying.pop(generation.key)
            if generation.aborted or (generation.error is not None and self._stop()):
                # An engine that hears the signal ends what it has: no row, it is done next time.
                continue
            if generation.error is not None:
                self._hold(key, decoded, generation.error)
                continue
            self._engine_works = True
            self._release_held()
            self._finish(key, _make_text_record(decoded, generation))

    def _hold(self, key: _Key, decoded: Decoded, error: str) -> None:
        record = _make_record(decoded, status=Status.ENGINE_ERROR, error=error)
        if self._engine_works:
            self._finish(key, record)
            return
        self._held.append((key, record))
        if len(self._held) >= _HOPELESS:
            raise UserError(
                f"the engine failed on each of the first {len(self._held)} images, the last time "
                f"with: {error}"
            )

    def _release_held(self) -> None:
        held, self._held = self._held, []
        for key, record in held:
            self._finish(key, record)

    def _finish(self, key: _Key, record: Record) -> None:
        key.shard.add(record)
        self._on_done(record)
        if not key.shard.missing:
            self._commit(key.shard)

    def _commit(self, shard: OpenShard) -> None:
        self._store.commit(shard)
        del self._open[shard.index]


def _make_record(decoded: Decoded, *, status: str, error: str | None) -> Record:
    return Record(
        sample_id=decoded.key.image.sample_id,
        status=status,
        error=error,
        width=decoded.width,
        height=decoded.height,
        image_sha256=decoded.sha256,
    )


def _make_text_record(decoded: Decoded, generation: Generation) -> Record:
    # A lone surrogate, cut from a longer character, can be stored nowhere.
    text = generation.text.strip().encode("utf-8", "replace").decode()
    return Record(
        sample_id=decoded.key.image.sample_id,
        status=Status.OK,
        caption=text,
        finish_reason=generation.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        caption_tokens=generation.caption_tokens,
        width=decoded.width,
        height=decoded.height,
        image_sha256=decoded.sha256,
    )
