"""How many engines a machine gets, and which GPUs each has."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from captioner.engines.hosted import HostedEngine
from captioner.engines.pool import EnginePool
from captioner.engines.protocol import Engine
from captioner.engines.vllm_process import is_small, list_devices
from captioner.engines.watch import Watch
from captioner.weights import Weights
from data.errors import UserError

# On a CPU each engine of a small model has 1 GiB of keys and as much of code.
_MOST_CPU_ENGINES = 8


def share_devices(
    weights: Weights, *, engines: int | None, tensor_parallel_size: int
) -> list[dict[str, str]]:
    """The environment of each engine: its GPUs, or nothing on a CPU.

    By default one engine for every `tensor_parallel_size` GPUs; on a CPU one for every core if the
    model is small, since its steps gain nothing from a second thread, else one.

    Raises:
        UserError: there are not so many GPUs.
    """
    devices = list_devices()
    if not devices:
        if tensor_parallel_size > 1:
            raise UserError("--tensor-parallel-size is for GPUs, and there is none")
        cores = len(os.sched_getaffinity(0))
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

    def start(environment: dict[str, str]) -> HostedEngine:
        watched = watch()
        watched.memory_limit //= len(environments)
        return HostedEngine(description, watch=watched, on_event=on_event, environment=environment)

    if len(environments) == 1:
        return start(environments[0])
    return EnginePool([lambda own=own: start(own) for own in environments])  # type: ignore[misc]
