"""Detecting engines that hang or use too much memory."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import psutil

SILENCE_SECONDS = 300.0
# Weights from a slow disk, compilation, graphs for many batch shapes.
START_SECONDS = 3600.0
_SHARE_OF_MEMORY = 0.85
_MEASURE_SECONDS = 5.0
# The file of memory limits by mount point, for cgroup v2 and v1.
_LIMITS = {"": "memory.max", "memory": "memory.limit_in_bytes"}


def find_memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of memory of this machine, container or job, whichever is least.

    `root` is where cgroups are mounted; `own` names those of this process.
    """
    total = psutil.virtual_memory().total
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        mount = "memory" if "memory" in controllers.split(",") else controllers
        if mount not in _LIMITS:
            continue
        # Each group is bounded by its parents. In a container, the path may be one of the host.
        group = PurePosixPath(path.lstrip("/"))
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):
                total = min(total, int((root / mount / folder / _LIMITS[mount]).read_text()))
    return total


def measure_memory(pid: int) -> int:
    """Resident bytes of a process and its descendants; 0 once it has ended."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        return total
    return total


class Watchdog:
    """Polled by the owner of the engine; only knows its process id.

    Users report engines whose memory grows while they caption (vllm#15294, #12973) and that fall
    silent (ray#59986).
    """

    def __init__(
        self,
        *,
        silence_seconds: float = SILENCE_SECONDS,
        memory_limit: int | None = None,
        start_seconds: float = START_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`memory_limit` in bytes; by default 85 % of the machine's or the job's."""
        self.silence_seconds = silence_seconds
        self.start_seconds = start_seconds
        self.memory_limit = memory_limit or int(_SHARE_OF_MEMORY * find_memory())
        self._clock = clock
        self._pid: int | None = None
        self._heard = self._measured = clock()

    def begin(self, pid: int) -> None:
        """Start watching a new process, which has just given a sign of life."""
        self._pid = pid
        self._measured = float("-inf")
        self.note_sign_of_life()

    def note_sign_of_life(self) -> None:
        """Record a sign of life."""
        self._heard = self._clock()

    def seconds_silent(self) -> float | None:
        """Seconds of silence, if that is too long."""
        silence = self._clock() - self._heard
        return silence if silence > self.silence_seconds else None

    def bytes_too_many(self) -> int | None:
        """Bytes of memory, if that is too many; checked every few seconds."""
        if self._pid is None or self._clock() - self._measured < _MEASURE_SECONDS:
            return None
        self._measured = self._clock()
        size = measure_memory(self._pid)
        return size if size > self.memory_limit else None
