"""Running d2s commands in processes forked from a server that has imported torch.

An experiment runs about a hundred commands of about a minute each, of which a tenth would be
imports.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path

from pipelines.workflow.stopping import RunningCommands

_SERVER = multiprocessing.get_context("forkserver")
_PRELOAD = (
    "pipelines.cli",
    "pipelines.commands.train",
    "pipelines.commands.evaluate",
    "vse.training.run",
    "vse.embedders.embedder",
)
# Starting a process also polls those of other threads, and their exit codes can only be read once.
_LOCK = threading.Lock()


def run_forked(
    arguments: tuple[str, ...],
    *,
    folder: Path,
    threads: int | None,
    environment: Mapping[str, str],
    tell: Callable[[str], None],
    running: RunningCommands,
) -> int:
    """Run `d2s ARGUMENTS` in `folder` and return its exit code, negative for a signal.

    Args:
        tell: receives its output, both streams, line by line.
        running: passes SIGTERM on to it.
    """
    _SERVER.set_forkserver_preload(list(_PRELOAD))
    reader, writer = _SERVER.Pipe(duplex=False)
    settings = (arguments, str(folder.resolve()), threads, dict(environment), writer)
    process = _SERVER.Process(target=_run, args=settings)
    try:
        with _LOCK:
            process.start()
        writer.close()
        with running.watch(process.terminate):
            with os.fdopen(os.dup(reader.fileno()), errors="replace") as output:
                reader.close()
                for line in output:
                    tell(line.rstrip())
            wait([process.sentinel])
    finally:
        with _LOCK:
            if process.is_alive():
                process.kill()
            if process.pid is not None:
                process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(
    arguments: tuple[str, ...],
    folder: str,
    threads: int | None,
    environment: dict[str, str],
    writer: Connection,
) -> None:
    os.dup2(writer.fileno(), 1)
    os.dup2(writer.fileno(), 2)
    writer.close()
    os.chdir(folder)
    os.environ.update(environment)
    if threads is not None:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    from pipelines.cli import run

    code = run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
