"""Running a command in several processes on this machine: one per GPU, or N on a CPU.

They use the same environment variables as torchrun and `accelerate launch`, which also support
several machines.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

from data.environment import count_cores
from data.errors import UserError
from pipelines.console.command_line import write_line

# After one process has failed, the others get this long to report their own errors.
GRACE_SECONDS = 10.0
# After Ctrl-C, the main process gets this long to end when the others have ended.
SAVING_SECONDS = 120.0
_POLL_SECONDS = 0.1
_INTERRUPTED = 130  # the exit code after a signal
_LAUNCHER = "D2S_LAUNCHER"


def is_launched() -> bool:
    """Whether this is already one of several processes."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """Whether this process writes for all of them."""
    return os.environ.get("RANK", "0") == "0"


def check_devices(count: int) -> None:
    """UserError if there are GPUs, but fewer than `count`."""
    import torch

    found = torch.accelerator.device_count()
    if 0 < found < count:
        raise UserError(f"--gpus {count}, but this machine has {found}")


def run_in_processes(command: Sequence[str], *, count: int) -> int:
    """Run a command in `count` processes; returns the exit code of the first that fails.

    The first process writes to our stdout and stderr; output of the others is only shown if they
    fail first. A signal is passed on to all of them, once.
    """
    group = _Group()
    before = {n: signal.signal(n, group.pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        group.start(command, count)
        return group.wait()
    finally:
        group.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def die_with_launcher() -> None:
    """Make this process end if the launcher is killed, instead of training on alone."""
    launcher = os.environ.get(_LAUNCHER)
    if launcher is None or not sys.platform.startswith("linux"):
        return
    import ctypes

    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != int(launcher):
        os._exit(1)


class _Group:
    def __init__(self) -> None:
        self.files = contextlib.ExitStack()
        self.heard: list[IO[bytes] | None] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.signals = 0

    def start(self, command: Sequence[str], count: int) -> None:
        """Start the processes. KeyboardInterrupt if a signal came before all had started."""
        shared = {
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_find_port()),
            _LAUNCHER: str(os.getpid()),
        }
        threads = max(1, count_cores() // count)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **shared}
        for rank in range(count):
            heard: IO[bytes] | None = None
            if rank:
                file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the group)
                heard = self.files.enter_context(file)
            process = subprocess.Popen(
                command,
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL if rank else None,
                stderr=heard,
                # Ctrl-C reaches the whole process group, and a second signal would end it at once.
                process_group=0,
            )
            self.heard.append(heard)
            self.processes.append(process)
            if self.signals:
                raise KeyboardInterrupt

    def wait(self) -> int:
        """Wait until all have ended, or one has failed."""
        saving: float | None = None
        while True:
            codes = [process.poll() for process in self.processes]
            # After a signal, the main process may still be saving when the others have ended. A
            # second signal, or a process that hangs, ends that.
            if saving is None and _INTERRUPTED in codes:
                saving = time.monotonic()
            waits = saving is not None and time.monotonic() - saving < SAVING_SECONDS
            fine = {None, 0, _INTERRUPTED} if waits and self.signals == 1 else {None, 0}
            failed = [rank for rank, code in enumerate(codes) if code not in fine]
            if failed:
                return self._tell_failure(failed[0])
            if None not in codes:
                return _INTERRUPTED if _INTERRUPTED in codes else 0
            time.sleep(_POLL_SECONDS)

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """Send a signal to every process."""
        # A second SIGTERM is ignored by all, see `data.signals.StopRequest`.
        self.signals += not self.signals or number == signal.SIGINT
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def kill(self) -> None:
        """Kill all processes that still run."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait()
        self.files.close()

    def _tell_failure(self, rank: int) -> int:
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and any(p.poll() is None for p in self.processes):
            time.sleep(_POLL_SECONDS)
        code = self.processes[rank].returncode
        heard = self.heard[rank]
        if heard is not None:
            heard.seek(0)
            for line in heard.read().decode(errors="replace").rstrip("\n").split("\n"):
                write_line(line)
        if code < 0:
            name = signal.Signals(-code).name
            write_line(f"d2s: error: process {rank} was killed by {name}")
            return 1
        return code


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
