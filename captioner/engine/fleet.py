"""How many engines a machine gets, and which GPUs each has."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from captioner.engine.pool import EnginePool
from captioner.engine.protocol import Engine
from captioner.engine.supervised import HostedEngine
from captioner.engine.vllm_process import is_small, list_devices
from captioner.engine.watchdog import Watch
from captioner.llava.weights import Weights
from data.cores import count_cores
from data.errors import UsageError, UserError

# On a CPU each engine of a small model has 1 GiB of keys and as much of code.
_MOST_CPU_ENGINES = 8


def share_devices(
    weights: Weights,
    *,
    engines: int | None,
    tensor_parallel_size: int,
    gpu_memory: float | None = None,
) -> list[dict[str, str]]:
    """The environment of each engine: its GPUs, or nothing on a CPU.

    By default one engine for every `tensor_parallel_size` GPUs; on a CPU one for every core if the
    model is small, since its steps gain nothing from a second thread, else one.

    Raises:
        UserError: there are not so many GPUs, or none where a setting is for them.
    """
    devices = list_devices()
    if not devices:
        if tensor_parallel_size > 1:
            raise UsageError("--tensor-parallel-size is for GPUs, and there is none")
        if gpu_memory is not None:
            raise UsageError("--gpu-memory is for GPUs, and there is none")
        cores = count_cores()
        usual = min(cores, _MOST_CPU_ENGINES) if is_small(weights) else 1
        return [{}] * (engines or usual)
    count = engines or max(1, len(devices) // tensor_parallel_size)
    if count * tensor_parallel_size > len(devices):
        raise UserError(
            f"{count} engines with {tensor_parallel_size} GPUs each want "
            f"{count * tensor_parallel_size} GPUs, and there are {len(devices)}: "
            "give fewer --engines or a smaller --tensor-parallel-size"
        )
    groups = (devices[n * tensor_parallel_size :][:tensor_parallel_size] for n in range(count))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]


def start_engines(
    description: dict[str, Any],
    environments: Sequence[dict[str, str]],
    *,
    watch: Callable[[], Watch],
    on_event: Callable[[str], None],
) -> Engine:
    """One engine, or several as one; the memory limit is shared among them.

    Raises:
        UserError: an engine cannot be started.
    """

    count, blame = len(environments), Counter[str]()

    def start(number: int) -> HostedEngine:
        watched = watch()
        watched.memory_limit //= count
        return HostedEngine(
            description,
            watch=watched,
            on_event=on_event,
            environment=environments[number],
            called="the engine" if count == 1 else f"engine {number + 1} of {count}",
            blame=blame,
        )

    if count == 1:
        return start(0)
    return EnginePool([partial(start, number) for number in range(count)], on_event=on_event)
