"""Simulated machines of a Ray cluster: network namespaces with separate process trees."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machinery import SHARD

_BRIDGE, _NETWORK, _PORT = "d2s-bridge", "10.77.0", 6379
_ADDRESS = Path("/tmp/ray/ray_current_cluster")
# Ray requires short paths; the head needs no GPU, and each worker declares one, so that each gets a
# rank.
_RAY = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block"]
_APART = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
_TRIES = 5


def find_obstacle() -> str | None:
    """Why this is not possible here."""
    if os.geteuid():
        return "it needs root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "`ip` (iproute2) or `unshare` is missing"
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed"
    probe = subprocess.run(["ip", "netns", "add", "d2s-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "d2s-probe"], capture_output=True)
    return f"no network namespace: {probe.stderr.strip()}" if probe.returncode else None


class Nodes:
    """Namespaces on one bridge, with their processes; removed at the end of the block."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._running: dict[str, list[subprocess.Popen[Any]]] = {name: [] for name in names}

    def __enter__(self) -> Nodes:
        self._remove()
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("link", "set", _BRIDGE, "up")
        for number, name in enumerate(self.names, start=1):
            _ip("netns", "add", f"d2s-{name}")
            _ip(
                "link", "add", f"d2s-{name}", "type", "veth", "peer", "eth0", "netns", f"d2s-{name}"
            )
            _ip("link", "set", f"d2s-{name}", "master", _BRIDGE, "up")
            for words in (
                f"addr add {_NETWORK}.{number}/24 dev eth0",
                "link set eth0 up",
                "link set lo up",
            ):
                _ip("-n", f"d2s-{name}", *words.split())
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            self.kill(name)
        self._remove()

    def start_ray(self, name: str) -> None:
        """Start Ray; the first node is the head."""
        number = self.names.index(name) + 1
        place = [f"--node-ip-address={_NETWORK}.{number}", "--num-cpus=1"]
        if number == 1:
            place += ["--head", f"--port={_PORT}", "--num-gpus=0", "--include-dashboard=false"]
        else:
            place += [f"--address={_NETWORK}.1:{_PORT}", "--num-gpus=1"]
        for _ in range(_TRIES):
            process = self._start(name, [*_APART, *_RAY, *place])
            assert process.stdout is not None
            if any("Ray runtime started" in line for line in process.stdout):
                return
            # Ray's own limit is half a minute, which a busy machine can exceed.
            self.kill(name)
        raise SystemExit(f"Ray did not start on {name}")

    def start_caption(self, name: str, images: Path, out: Path) -> subprocess.Popen[Any]:
        """Start `d2s caption --cluster ray` on a node; it finds Ray among the processes there."""
        command = [sys.executable, "-P", "-m", "pipelines.cli", "caption", "--engine", "scripted"]
        command += ["--model", "any", "--images", str(images), "--out", str(out)]
        command += ["--shard-size", str(SHARD)]
        command += ["--cluster", "ray", "--cluster-engines", "2", "--gpus-per-engine", "1"]
        return self._start(name, command)

    def kill(self, name: str) -> None:
        """Kill all processes of a node at once, like a power failure."""
        for process in self._running[name]:
            # The root of the process tree: the system then kills the others.
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._running[name].clear()

    @contextlib.contextmanager
    def cut(self, name: str) -> Iterator[None]:
        """Disconnect a node for a while."""
        _ip("link", "set", f"d2s-{name}", "down")
        try:
            yield
        finally:
            _ip("link", "set", f"d2s-{name}", "up")

    def _start(self, name: str, command: Sequence[str]) -> subprocess.Popen[Any]:
        process = subprocess.Popen(
            ["ip", "netns", "exec", f"d2s-{name}", *command],
            env=_make_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        self._running[name].append(process)
        return process

    def _remove(self) -> None:
        for name in self.names:
            # Removing a namespace takes the system some time.
            subprocess.run(["ip", "link", "del", f"d2s-{name}"], capture_output=True)
            subprocess.run(["ip", "netns", "del", f"d2s-{name}"], capture_output=True)
        subprocess.run(["ip", "link", "del", _BRIDGE], capture_output=True)
        # Ray remembers the address of a killed head and would connect to it the next time.
        if _ADDRESS.exists() and _NETWORK in _ADDRESS.read_text():
            _ADDRESS.unlink()


def _make_environment() -> dict[str, str]:
    """Without a proxy, which gRPC would also use for the other nodes."""
    kept = {n: v for n, v in os.environ.items() if not n.lower().endswith("_proxy")}
    # Without authentication: by default, each `ray start` creates its own token.
    return {**kept, "RAY_ADDRESS": f"{_NETWORK}.1:{_PORT}", "RAY_AUTH_MODE": "disabled"}


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
