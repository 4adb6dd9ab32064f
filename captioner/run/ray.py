"""Many GPUs and machines: Ray Data hands shards to workers, each with an engine of its own.

What travels is the number of a shard and its receipt. Images are read, and shards written, by the
worker that has the shard, with the same shard runner as in one process, so `--out` and the images
must be on a file system that all machines see. When a worker dies, Ray gives its shards to another,
which goes on from the journals.
"""

import contextlib
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from captioner.engine.protocol import Engine
from captioner.run.shards import make_runner, open_store
from captioner.settings.config import CaptionConfig
from captioner.settings.placement import Placement
from captioner.settings.prepare import PreparedRun, prepare_caption
from captioner.store.journal import Outcome
from captioner.store.locks import hold_folder
from data.environment import name_install
from data.errors import UserError

_POLL_SECONDS = 1.0
# So many shards in one task: between tasks an engine runs empty.
_MOST_SHARDS_PER_TASK, _TASKS_PER_WORKER = 8, 4


class ShardWorker:
    """What Ray starts once per GPU: an engine that stays, and a call for a few shards at a time."""

    def __init__(self, config: CaptionConfig, folder: str) -> None:
        """`config` with paths relative to `folder`."""
        os.chdir(folder)
        self._prepared = prepare_caption(config)
        self._engine: Engine | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Caption the shards `batch["shard"]`; gives them back with the number of rows made."""
        shards = [int(index) for index in batch["shard"]]
        made: list[Outcome] = []
        if self._engine is None:
            self._engine = self._prepared.choice.start(print)
        with (
            hold_folder(self._prepared.directory, shared=True),
            open_store(self._prepared) as store,
        ):
            runner = make_runner(
                self._prepared, store, self._engine, stop=lambda: False, on_done=made.append
            )
            runner.run(shards)
        about = json.dumps(self._engine.describe())
        return {"shards": [len(shards)], "generated": [len(made)], "engine": [about]}


def run_on_ray(
    prepared: PreparedRun,
    shards: Sequence[int],
    *,
    stop: Callable[[], bool],
    on_poll: Callable[[], None],
    on_event: Callable[[str], None],
) -> tuple[bool, int, dict[str, Any]]:
    """Caption `shards` with the workers of a Ray cluster: that of RAY_ADDRESS, or this machine.

    Returns whether no stop was asked for, how many images were captioned, and what the engines say
    of themselves. `on_poll` is called about once a second.

    Raises:
        UserError: Ray is not installed, there are too few GPUs, or a worker cannot go on.
    """
    ray = _import_ray()
    # What is worth telling we tell ourselves.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if not ray.is_initialized():
        with _keep_handler():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    try:
        engine = prepared.config.engine
        size = engine.tensor_parallel_size
        workers, gpus = _choose_workers(ray, prepared.placement, len(shards), size)
        on_event(f"ray: {workers} workers with {gpus:g} GPUs each for {len(shards):,} shards")
        # What "auto" is was decided here; the driver and its workers may be unlike.
        engine = replace(engine, dtype=prepared.settings.get("dtype", "auto"))
        work = _Work(
            ray, replace(prepared.config, engine=engine), shards, workers=workers, gpus=gpus
        )
        work.start()
        while work.is_alive():
            work.join(_POLL_SECONDS)
            on_poll()
            if stop():
                return False, work.generated, work.engine
        if work.failure is not None:
            raise _explain(work.failure)
        return True, work.generated, work.engine
    finally:
        # Ends the workers too; what they finished is in their journals.
        ray.shutdown()


@contextlib.contextmanager
def _keep_handler() -> Iterator[None]:
    """Ray puts a handler of its own for SIGTERM, which would end us without saving."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Work(threading.Thread):
    """Waits for the results, so that the main thread can hear a stop."""

    def __init__(
        self,
        ray: Any,
        config: CaptionConfig,
        shards: Sequence[int],
        *,
        workers: int,
        gpus: float,
    ) -> None:
        super().__init__(name="ray-results", daemon=True)
        self._ray = ray
        self._config = config
        self._shards = shards
        self._workers = workers
        self._gpus = gpus
        self.generated = 0
        self.engine: dict[str, Any] = {}
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            for row in self._schedule().iter_rows():
                self.generated += row["generated"]
                self.engine = json.loads(row["engine"])
        except Exception as error:  # carried to the main thread, and explained there
            self.failure = error

    def _schedule(self) -> Any:
        data = self._ray.data
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        size = len(self._shards) // (self._workers * _TASKS_PER_WORKER)
        size = max(1, min(_MOST_SHARDS_PER_TASK, size))
        blocks = -(-len(self._shards) // size)
        items = [{"shard": index} for index in self._shards]
        return data.from_items(items, override_num_blocks=blocks).map_batches(
            ShardWorker,
            fn_constructor_args=(self._config, os.getcwd()),
            batch_size=size,
            compute=data.ActorPoolStrategy(size=self._workers),
            num_gpus=self._gpus,
            # Decoding is done by processes of our own, which Ray does not count.
            num_cpus=0,
        )


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            f"--cluster ray needs Ray, which is not installed: {name_install('ray')}"
        ) from error
    return ray


def _choose_workers(
    ray: Any, placement: Placement, shards: int, tensor_parallel_size: int
) -> tuple[int, float]:
    there = float(ray.cluster_resources().get("GPU", 0))
    gpus = placement.gpus_per_worker
    if gpus is None:
        gpus = float(tensor_parallel_size) if there else 0.0
    workers = placement.cluster_workers or (max(1, int(there / gpus)) if gpus else 1)
    if workers * gpus > there:
        raise UserError(
            f"{workers} workers with {gpus:g} GPUs each want {workers * gpus:g}, and the Ray "
            f"cluster has {there:g}: give fewer --cluster-workers or --gpus-per-worker"
        )
    return max(1, min(workers, shards)), gpus


def _explain(failure: Exception) -> Exception:
    """A worker's own UserError, or Ray's error in one line."""
    cause: BaseException | None = failure
    while cause is not None:
        inner = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, UserError):
            return UserError(str(cause), exit_code=cause.exit_code)
        cause = inner if inner is not cause else None
    last = (str(failure).strip().splitlines() or [type(failure).__name__])[-1]
    return UserError(
        f"a worker of the Ray cluster failed: {last[:300]}; what was captioned is saved: run the "
        "same command again to go on"
    )
