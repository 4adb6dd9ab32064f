"""Several engines on one machine as one: one per GPU, or per core for a small model."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from captioner.engine.config import EngineConfig
from captioner.engine.protocol import Engine, Generation, Request
from captioner.engine.supervised import EngineLostError, SupervisedEngine, wait_until_up
from captioner.engine.vllm_process import is_small, list_devices
from captioner.engine.watchdog import Watchdog
from captioner.llava.weights import Weights
from data.environment import count_cores
from data.errors import UsageError, UserError

# On a CPU, each engine of a small model takes 1 GiB for the KV cache and as much for code.
_MOST_CPU_ENGINES = 8
_WAIT_SECONDS = 0.01


class EnginePool:
    """Gives each image to the least busy engine.

    A text depends on its image and seed, not on the engine. If an engine crashes, the others take
    over its requests while it is restarted, or for good if it cannot be.
    """

    def __init__(
        self,
        engines: Sequence[SupervisedEngine],
        *,
        on_event: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start all engines at the same time, and continue without those that do not start.

        Raises:
            UserError: none of them starts, or one cannot be started with these settings; all are
                closed.
            StoppedError: a stop was requested meanwhile; the same.
        """
        self._engines = list(engines)
        self._size = len(engines)
        self._on_event = on_event
        # Taken from a crashed engine, and not yet given to another.
        self._waiting: deque[Request] = deque()
        self._aborted: list[Generation] = []
        self._draining = False
        wait_until_up(self._are_up, close=self.close)

    @property
    def name(self) -> str:
        return self._engines[0].name

    @property
    def window(self) -> int:
        return sum(engine.window for engine in self._engines)

    @property
    def room(self) -> int:
        return max(0, sum(engine.room for engine in self._engines) - len(self._waiting))

    @property
    def pending(self) -> int:
        mine = len(self._waiting) + len(self._aborted)
        return mine + sum(engine.pending for engine in self._engines)

    def submit(self, request: Request) -> None:
        open_ones = [engine for engine in self._engines if engine.is_open]
        if open_ones:
            min(open_ones, key=lambda engine: engine.pending / engine.window).submit(request)
        else:
            self._waiting.append(request)

    def collect(self) -> list[Generation]:
        done, self._aborted = self._aborted, []
        for engine in tuple(self._engines):
            if engine.pending or not engine.is_open:
                done += self._collect_from(engine)
        self._hand_over()
        if not done:
            time.sleep(_WAIT_SECONDS)
        return done

    def measure(self) -> dict[str, int]:
        total = Counter[str]()
        for engine in self._engines:
            total.update(engine.measure())
        return dict(total)

    def describe(self) -> dict[str, Any]:
        return {**self._engines[0].describe(), "engines": len(self._engines)}

    def drain(self) -> None:
        self._draining = True
        for engine in self._engines:
            engine.drain()
        for request in self._waiting:
            error = "the engine ended before a stop was asked for"
            self._aborted.append(Generation(request.key, error=error, aborted=True))
        self._waiting.clear()

    def close(self) -> None:
        # Close all of them at the same time, since each can take a while.
        for engine in self._engines:
            engine.begin_close()
        for engine in self._engines:
            engine.close()

    def _are_up(self) -> bool:
        return all([self._is_up(engine) for engine in tuple(self._engines)])

    def _is_up(self, engine: SupervisedEngine) -> bool:
        try:
            return engine.is_up(_WAIT_SECONDS)
        except EngineLostError as lost:
            self._drop(engine, lost)
            return True

    def _collect_from(self, engine: SupervisedEngine) -> list[Generation]:
        try:
            return engine.collect(wait=0.0)
        except EngineLostError as lost:
            self._drop(engine, lost)
            return []

    def _drop(self, engine: SupervisedEngine, lost: EngineLostError) -> None:
        """Continue without an engine, unless it is the last one."""
        others = [other for other in self._engines if other is not engine]
        if not others or self._draining:
            raise lost
        self._engines = others
        self._waiting.extend(engine.give_back())
        engine.close()
        self._on_event(
            f"{lost.reason}; continuing without it, with {len(others)} of {self._size} engines"
        )

    def _hand_over(self) -> None:
        """Hand over the requests of an engine that is down to those that are up and have room."""
        if self._draining:
            return
        for engine in self._engines:
            if engine.is_restarting and engine.pending:
                self._waiting.extend(engine.give_back())
        while self._waiting and any(engine.room for engine in self._engines):
            self.submit(self._waiting.popleft())


def share_devices(weights: Weights, config: EngineConfig) -> list[dict[str, str]]:
    """The environment of each engine: its GPUs, or nothing on a CPU.

    By default one engine per `tensor_parallel_size` GPUs; on a CPU one per core if the model is
    small, since a second thread does not speed up its steps, else one.

    Raises:
        UserError: there are fewer GPUs than requested, or none although a setting needs them.
    """
    devices, size = list_devices(), config.tensor_parallel_size
    if not devices:
        if size > 1:
            raise UsageError("--tensor-parallel-size needs a GPU, but there is none")
        if config.gpu_memory is not None:
            raise UsageError("--gpu-memory needs a GPU, but there is none")
        cores = count_cores()
        usual = min(cores, _MOST_CPU_ENGINES) if is_small(weights) else 1
        return [{}] * (config.engines or usual)
    count = config.engines or max(1, len(devices) // size)
    if count * size > len(devices):
        raise UserError(
            f"{count} engines with {size} GPUs each need {count * size} GPUs, but there are "
            f"{len(devices)}: use fewer --engines or a smaller --tensor-parallel-size"
        )
    groups = (devices[n * size :][:size] for n in range(count))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]


def start_engines(
    description: dict[str, Any],
    environments: Sequence[dict[str, str]],
    *,
    watch: Callable[[], Watchdog],
    on_event: Callable[[str], None],
) -> Engine:
    """Start one engine, or several as a pool, which share the memory limit.

    Raises:
        UserError: no engine can be started.
        StoppedError: a stop was requested meanwhile.
    """

    count, blame = len(environments), Counter[str]()

    def start(number: int) -> SupervisedEngine:
        watched = watch()
        watched.memory_limit //= count
        return SupervisedEngine(
            description,
            watch=watched,
            on_event=on_event,
            environment=environments[number],
            called="the engine" if count == 1 else f"engine {number + 1} of {count}",
            blame=blame,
            wait=count == 1,
        )

    if count == 1:
        return start(0)
    return EnginePool([start(number) for number in range(count)], on_event=on_event)
