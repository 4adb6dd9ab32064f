"""Several engines of one machine as one: one on each GPU, or on each core for a small model."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from captioner.engine.config import EngineConfig
from captioner.engine.protocol import Engine, Generation, Request
from captioner.engine.supervised import EngineLostError, SupervisedEngine, start_all
from captioner.engine.vllm_process import is_small, list_devices
from captioner.engine.watchdog import Watchdog
from captioner.llava.weights import Weights
from data.environment import count_cores
from data.errors import UsageError, UserError

# On a CPU each engine of a small model has 1 GiB of keys and as much of code.
_MOST_CPU_ENGINES = 8
_WAIT_SECONDS = 0.01


class EnginePool:
    """Gives each image to the engine with the least to do.

    A text depends on its image and seed, not on the engine that writes it. So what was in flight in
    an engine that ends is done by the others while it is restarted, and by them alone if it cannot
    be.
    """

    def __init__(
        self,
        engines: Sequence[SupervisedEngine],
        *,
        on_event: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Bring all engines up at once.

        Raises:
            UserError: one of them cannot be started; the others are ended.
        """
        self._engines = list(engines)
        self._size = len(engines)
        self._on_event = on_event
        # Taken from an engine that ended, and not given to another yet.
        self._waiting: deque[Request] = deque()
        self._aborted: list[Generation] = []
        self._draining = False
        start_all(self._engines)

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
        return {**self._engines[0].describe(), "engines": self._size}

    def drain(self) -> None:
        self._draining = True
        for engine in self._engines:
            engine.drain()
        for request in self._waiting:
            error = "the engine ended before a stop was asked for"
            self._aborted.append(Generation(request.key, error=error, aborted=True))
        self._waiting.clear()

    def close(self) -> None:
        # All end at the same time: each may take its while.
        for engine in self._engines:
            engine.begin_close()
        for engine in self._engines:
            engine.close()

    def _collect_from(self, engine: SupervisedEngine) -> list[Generation]:
        try:
            return engine.collect(wait=0.0)
        except EngineLostError as lost:
            others = [other for other in self._engines if other is not engine]
            if not others or self._draining:
                raise
            self._engines = others
            self._waiting.extend(engine.give_back())
            engine.close()
            self._on_event(
                f"{lost.reason}; continuing without it, with {len(others)} of {self._size} engines"
            )
            return []

    def _hand_over(self) -> None:
        """What an engine that is down was to do, to those that are up and have room."""
        if self._draining:
            return
        for engine in self._engines:
            if engine.is_restarting and engine.pending:
                self._waiting.extend(engine.give_back())
        while self._waiting and any(engine.room for engine in self._engines):
            self.submit(self._waiting.popleft())


def share_devices(weights: Weights, config: EngineConfig) -> list[dict[str, str]]:
    """The environment of each engine: its GPUs, or nothing on a CPU.

    By default one engine for every `tensor_parallel_size` GPUs; on a CPU one for every core if the
    model is small, since its steps gain nothing from a second thread, else one.

    Raises:
        UserError: there are not so many GPUs, or none where a setting is for them.
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
    """One engine, or several as one; the memory limit is shared among them.

    Raises:
        UserError: an engine cannot be started.
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
