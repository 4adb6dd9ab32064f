"""Many GPUs and machines: Ray starts ranks, which share the folder of a run with leases.

A rank is `d2s caption --rank R --world-size N` in a Ray actor with GPUs. Only its configuration and
messages for the user are sent; the rank itself reads images and writes shards, so `--out` and the
images must be on a file system that all machines see. Ray restarts a rank whose process or machine
died; the others take over its work, as always.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from captioner.run.shards import GRACE_SECONDS
from captioner.settings.config import CaptionConfig
from captioner.settings.placement import Placement, describe_idle
from captioner.settings.prepare import PreparedRun
from data.environment import name_install
from data.errors import UserError, one_line

_POLL_SECONDS = 1.0
# Restarts of one rank by Ray; beyond that, its failure is reported and it is started again.
_RESTARTS = 3
_TRIES = 3  # to start Ray


class RankActor:
    """One rank: `caption` runs, `report` is polled meanwhile."""

    def __init__(self, work: Callable[..., object], config: CaptionConfig, folder: str) -> None:
        """`config` with paths relative to `folder`; `work` captions what it asks for."""
        os.chdir(folder)
        self._work = work
        self._config = config
        self._lines: list[str] = []
        self._first: int | None = None
        self._made_rows = False
        self._stopped = False

    def caption(self) -> None:
        """Run until nothing is left for this rank, or a stop is requested."""
        self._work(
            self._config,
            stop=lambda: self._stopped,
            on_progress=self._follow,
            on_event=self._lines.append,
        )

    def report(self, *, stop: bool) -> tuple[list[str], bool]:
        """The lines since the last report, and whether rows were written; `stop` ends the run."""
        self._stopped |= stop
        lines = self._lines[:]
        del self._lines[: len(lines)]
        return lines, self._made_rows

    def _follow(self, progress: Any) -> None:
        if self._first is None:
            self._first = progress.done
        self._made_rows = progress.done > self._first


class _Rank:
    """The driver's view of a rank."""

    def __init__(
        self, ray: Any, work: Callable[..., object], config: CaptionConfig, gpus: float
    ) -> None:
        self.name = config.placement.owner
        self.going: Any = None
        self.made_rows = False
        self.ended = False
        self.failure: Exception | None = None
        self._ray = ray
        self._work = work
        self._config = config
        self._report: Any = None
        # Decoding runs in our own processes, which Ray does not count.
        self._kind = ray.remote(
            num_gpus=gpus,
            num_cpus=0,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
            max_concurrency=2,
        )(RankActor)

    def begin(self) -> None:
        """Start the rank, or restart it if it has ended."""
        self.made_rows, self.failure, self._report = False, None, None
        self._actor = self._kind.remote(self._work, self._config, os.getcwd())
        self.going = self._actor.caption.remote()

    def hear(self, *, stop: bool) -> list[str]:
        """The rank's lines since the last call; records whether it has ended."""
        ended = self._is_there(self.going)
        lines = self._take_report(stop=stop, wait=_POLL_SECONDS if ended else 0)
        if ended:
            # That report may have been requested before the end.
            lines += self._take_report(stop=stop, wait=_POLL_SECONDS)
            lines += self._end()
        return [f"{self.name}: {line}" for line in lines]

    def _take_report(self, *, stop: bool, wait: float) -> list[str]:
        """The lines of the requested report (requested now if need be); none if not there yet."""
        lines: list[str] = []
        if self._report is None:
            self._report = self._actor.report.remote(stop=stop)
        if self._is_there(self._report, wait=wait):
            # A rank that died has no report; `going` says why.
            with contextlib.suppress(self._ray.exceptions.RayError):
                lines, made = self._ray.get(self._report)
                self.made_rows |= made
            self._report = None
        return lines

    def _is_there(self, reference: Any, wait: float = 0) -> bool:
        return bool(self._ray.wait([reference], timeout=wait)[0])

    def kill(self) -> None:
        """End the rank and free its GPUs, which another rank may need."""
        if self.going is not None:
            self._ray.kill(self._actor)
            self.going = None

    def _end(self) -> list[str]:
        try:
            self._ray.get(self.going)
            self.ended = True
        except Exception as error:  # the other ranks make up for the failure of one
            self.failure = _explain(error)
        self.kill()
        return [] if self.failure is None else [f"failed: {self.failure}"]


def run_ranks(
    prepared: PreparedRun,
    shards: int,
    *,
    work: Callable[..., object],
    stop: Callable[[], bool],
    look: Callable[[], bool],
    on_event: Callable[[str], None],
) -> bool:
    """Caption with ranks on a Ray cluster: the caller's, that of RAY_ADDRESS, or this machine.

    `work` runs a configuration in the process of a rank. `look` is called about once per second and
    returns whether every shard is written. Returns True unless a stop was requested.

    Raises:
        UserError: Ray is not installed, there are too few GPUs, or no rank makes progress.
    """
    ray = _import_ray()
    ranks: list[_Rank] = []
    ours = not ray.is_initialized()
    if ours:
        _start(ray)
    try:
        engine, placement = prepared.config.engine, prepared.config.placement
        wanted, gpus = _choose_workers(ray, placement, engine.tensor_parallel_size)
        size, plan = max(1, min(wanted, shards)), prepared.plan
        on_event(f"ray: {size} ranks with {gpus:g} GPUs each for {shards:,} shards")
        about = {"shard_size": plan.shard_size, "images": len(plan.records)}
        if idle := describe_idle(wanted, shards=shards, **about):
            on_event(idle)
        configs = [configure_rank(prepared, Placement(rank, size)) for rank in range(size)]
        ranks = [_Rank(ray, work, config, gpus) for config in configs]
        return _follow(ray, ranks, stop=stop, look=look, on_event=on_event)
    finally:
        # What the ranks finished is in their journals.
        if ours:
            # This also ends the ranks.
            ray.shutdown()
        else:
            for rank in ranks:
                rank.kill()


def _start(ray: Any) -> None:
    """Join the cluster of RAY_ADDRESS, or start Ray on this machine."""
    # Ray's own limits for starting, 30 s, are too short for a busy machine.
    tries = _TRIES if os.environ.get("RAY_ADDRESS", "local") == "local" else 1
    for left in reversed(range(tries)):
        try:
            with _keep_handler():
                ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # of many classes, not all of them Ray's
            ray.shutdown()
            if not left:
                raise UserError(f"Ray cannot be reached or started: {one_line(error)}") from error


def _follow(
    ray: Any,
    ranks: list[_Rank],
    *,
    stop: Callable[[], bool],
    look: Callable[[], bool],
    on_event: Callable[[str], None],
) -> bool:
    """Poll until everything is written or no rank makes progress; False if a stop was requested."""
    begin, deadline = ranks, float("inf")
    while True:
        for rank in begin:
            rank.begin()
        going = [rank for rank in ranks if rank.going is not None]
        ray.wait([rank.going for rank in going], timeout=_POLL_SECONDS)
        finished = look()
        if stop() or (finished and any(rank.ended for rank in ranks)):
            # Do not wait in vain for a starting engine or a rank without a machine.
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        for rank in going:
            for line in rank.hear(stop=stop()):
                on_event(line)
        going = [rank for rank in going if rank.going is not None]
        over = not going or time.monotonic() > deadline
        if over and (finished or stop()):
            return not stop()
        if not going and not any(rank.made_rows for rank in ranks):
            failures = [rank.failure for rank in ranks if rank.failure is not None]
            if failures:
                raise failures[-1]
            return True
        # Ranks that wrote rows before they failed are restarted; if none is running, all are.
        idle = [rank for rank in ranks if rank.going is None]
        begin = [rank for rank in idle if not going or (rank.failure and rank.made_rows)]


def configure_rank(prepared: PreparedRun, placement: Placement) -> CaptionConfig:
    """The configuration of the run for one rank."""
    config = prepared.whole
    # "auto" was resolved here, since machines may differ.
    engine = replace(config.engine, dtype=prepared.settings.get("dtype", "auto"))
    if config.engine_name == "vllm":
        engine = replace(engine, engines=1)
    # New images were planned here.
    output = replace(config.output, append=False, redo=False)
    return replace(config, engine=engine, output=output, placement=placement)


@contextlib.contextmanager
def _keep_handler() -> Iterator[None]:
    """Ray installs its own SIGTERM handler, which would end this process without saving."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--cluster ray needs Ray, which is not installed: {name_install('ray')}"
        ) from error
    return ray


def _choose_workers(ray: Any, placement: Placement, tensor_parallel_size: int) -> tuple[int, float]:
    there = float(ray.cluster_resources().get("GPU", 0))
    gpus = placement.gpus_per_engine
    if gpus is None:
        gpus = float(tensor_parallel_size) if there else 0.0
    workers = placement.cluster_engines or (max(1, int(there / gpus)) if gpus else 1)
    if workers * gpus > there:
        raise UserError(
            f"{workers} workers with {gpus:g} GPUs each need {workers * gpus:g}, but the Ray "
            f"cluster has {there:g}: use fewer --cluster-engines or --gpus-per-engine"
        )
    return workers, gpus


def _explain(failure: Exception) -> UserError:
    """A rank's own UserError, or Ray's error in one line."""
    cause = getattr(failure, "cause", None)
    if isinstance(cause, UserError):
        return UserError(str(cause), exit_code=cause.exit_code)
    last = (str(failure).strip().splitlines() or [type(failure).__name__])[-1]
    return UserError(
        f"a rank on the Ray cluster failed: {last[:300]}; finished texts are saved: run the same "
        "command again to continue"
    )
