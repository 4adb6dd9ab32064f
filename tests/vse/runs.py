"""Plans of tiny training runs for the tests, and a run that is killed half way."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from tests.processes import FORK
from tests.waiting import HANG_SECONDS, wait_until
from vse.recipes.files import read_recipe
from vse.runs.config import PROGRESS, recipe_of
from vse.runs.folder import RunFolder
from vse.samples.discovery import find_input
from vse.training.run import train
from vse.training.spec import RunSpec, make_spec


def make(
    stage: str,
    *,
    out: Path,
    init: Path | None = None,
    overrides: tuple[str, ...] = (),
    **options: Any,
) -> RunSpec:
    """The spec of a run for the project in the current folder (see world.write_project)."""
    paths = find_input(images=None, captions=None, dense=None, wants_dense=stage != "sparse")
    return make_spec(
        stage=stage,
        out=out,
        raw=recipe_of(init) if init is not None else read_recipe("tiny.yaml"),
        overrides=overrides,
        options={f"optim__{key}": value for key, value in options.items()},
        paths=paths,
        init=init,
        limit=None,
    )


def run(spec: RunSpec) -> list[dict[str, Any]]:
    """Train and return the events."""
    torch.set_num_threads(1)
    events: list[dict[str, Any]] = []
    train(spec, report=events.append)
    return events


def run_together(
    spec: RunSpec,
    *,
    other: RunSpec | None = None,
    at: int | None = None,
    stop: int | None = None,
    shard: bool = False,
) -> list[int | None]:
    """Train in two processes. Returns the exit codes.

    The first is killed after step `at`, or gets SIGTERM after step `stop` (see `_stop`). With
    `shard`, the weights are shared out as `accelerate launch --use_fsdp` does on GPUs.

    Args:
        other: what the second one trains, by default the same.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        FORK.Process(target=_join, args=(one, rank, port, at, stop, shard))
        for rank, one in enumerate((spec, other or spec))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=HANG_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _join(
    spec: RunSpec, rank: int, port: int, at: int | None, stop: int | None, shard: bool
) -> None:
    faulthandler.enable()  # a crash in native code prints where it happened
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if shard:
        _shard_on_cpu()  # its meshes hold the group in Python, which is safe
    else:
        _expect_no_threads()
    if stop is not None:
        _stop(spec, stop)
    elif at is None:
        run(spec)
    elif rank == 0:
        _die(spec, at)
    else:
        try:
            run(spec)
        finally:
            # It fails while it still has threads of gloo.
            os._exit(1)


def _stop(spec: RunSpec, step: int) -> None:
    """Exit with 130 when a signal after `step` was answered and the state had been saved by then.

    The main process, which alone is told of steps, saves slowly.
    """
    save = RunFolder.save_state

    def save_slowly(folder: RunFolder, *given: Any) -> None:
        time.sleep(1)
        save(folder, *given)

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "tick" and event["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    RunFolder.save_state = save_slowly  # type: ignore[method-assign]
    torch.set_num_threads(1)
    try:
        train(spec, report=report)
    except KeyboardInterrupt:
        os._exit(130 if (spec.out / PROGRESS).is_file() else 1)


def _expect_no_threads() -> None:
    """Fail this process if threads of gloo are left when it has left the group.

    What is destroyed after that, such as DDP's module, would wait for them with the GIL held, and
    they for the GIL: once in some hundred runs, both for ever.
    """
    real = PartialState.destroy_process_group

    def destroy(self: PartialState, group: Any = None) -> None:
        real(self, group)
        # The system lists a thread for a moment after it was joined.
        wait_until(lambda: not any("gloo" in name for name in _name_threads()))

    PartialState.destroy_process_group = destroy


def _name_threads() -> Iterator[str]:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            yield task.joinpath("comm").read_text()


def _shard_on_cpu() -> None:
    """Accelerate shares weights out on GPUs only; PyTorch does it on a CPU with gloo as well."""
    os.environ.update(
        ACCELERATE_USE_FSDP="true",
        FSDP_VERSION="2",
        FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
        ACCELERATE_TORCH_DEVICE="cpu",
    )
    kind = ("gloo", DistributedType.MULTI_GPU)
    PartialState._prepare_backend = lambda self, cpu, sagemaker, backend=None: kind
    torch.distributed.init_process_group("gloo")


def run_and_die(spec: RunSpec, *, at: int) -> None:
    """Train in another process that is killed by SIGKILL after step `at`."""
    process = FORK.Process(target=_die, args=(spec, at))
    process.start()
    process.join(timeout=HANG_SECONDS)
    assert process.exitcode == -signal.SIGKILL


def _die(spec: RunSpec, at: int) -> None:
    def report(event: dict[str, Any]) -> None:
        if event["event"] == "tick" and event["step"] == at:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    train(spec, report=report)
