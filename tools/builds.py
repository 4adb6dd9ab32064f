"""Choosing the build of torch and vLLM for this machine, by detection or with BUILD.

gpu     vLLM and torch for CUDA, all of it from lock-gpu.txt
cpu     vLLM's CPU build with torch's CPU build, which is not on the plain package index
plain   vLLM's CPU build with torch from the package index: on Linux a CUDA build, several GB
        larger; it needs no GPU and no second index
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

NAMES = ("gpu", "cpu", "plain")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Timeouts for an answer of an index, and for pip in total.
ANSWER_SECONDS, ASK_SECONDS = 5, 15
# The oldest NVIDIA driver for each CUDA version (release notes, "CUDA Driver").
OLDEST_DRIVER = {"12": 525, "13": 580}


@dataclass(frozen=True)
class Build:
    """A build, the reason for it, and pip requirements that cannot be locked."""

    name: str
    why: str
    torch: tuple[str, ...] = ()

    @property
    def locks(self) -> tuple[str, ...]:
        """The required lock files, by name."""
        return {"gpu": ("gpu",), "cpu": ("cpu",), "plain": ("cpu", "torch")}[self.name]


def choose_build(
    forced: str | None, *, torch: Mapping[str, str], cuda: str, installed: Mapping[str, str]
) -> Build | None:
    """The build to install; None if the CPU build was requested or installed, but is unavailable.

    Args:
        forced: its name, or None to detect.
        torch: the locked version of torch and torchvision.
        cuda: major CUDA version of lock-gpu.txt.
        installed: name -> version of packages in .venv.
    """
    if sys.platform == "darwin":
        return Build(
            "plain", "macOS: torch for CPU and MPS, without vLLM; use --server for captioning"
        )
    gpu, why = (True, "as requested") if forced == "gpu" else look_for_gpu(cuda)
    if gpu and forced in (None, "gpu"):
        return Build("gpu", f"{why}: vLLM and torch for CUDA")
    if forced is not None:
        why = f"BUILD={forced}" if os.environ.get("BUILD") else "as before"
    there = {name: installed.get(name, "") for name in ("torch", "torchvision")}
    same = all(there[name].partition("+")[0] == torch[name] for name in there)
    if forced == "cpu" and same and there["torch"].endswith("+cpu"):
        # It need not be detected again.
        pins = tuple(f"{name}=={version}" for name, version in there.items())
        return Build("cpu", f"{why}: torch's CPU build, already installed", pins)
    if forced != "plain":
        if found := find_cpu_build(torch):
            return Build("cpu", f"{why}: torch's CPU build, found by pip", found)
        index = os.environ.get("TORCH_CPU_INDEX") or CPU_INDEX
        if found := find_cpu_build(torch, "--index-url", index):
            return Build("cpu", f"{why}: torch's CPU build, from {index}", found)
        if forced == "cpu":
            return None
        why += ", and no CPU build of torch is available"
    return Build("plain", f"{why}: torch as the package index has it, with its CUDA libraries")


def look_for_gpu(cuda: str) -> tuple[bool, str]:
    """Whether there is an NVIDIA GPU with a suitable driver, and a description."""
    if shutil.which("nvidia-smi") is None:
        return False, "no NVIDIA GPU"
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    lines = _run(query, seconds=ASK_SECONDS).splitlines()
    if not lines or not (match := re.fullmatch(r"(.+), (\d+)[\d.]*", lines[0])):
        return False, "nvidia-smi reports no GPU"
    name, driver = match[1], int(match[2])
    if driver < (oldest := OLDEST_DRIVER.get(cuda, 0)):
        return False, f"{name}, but driver {driver} is older than {oldest}, which CUDA {cuda} needs"
    return True, name


def find_cpu_build(torch: Mapping[str, str], *options: str) -> tuple[str, ...]:
    """The pip requirements for torch's CPU build from the configured indexes; or nothing.

    torchvision may be available as a CPU build too; if not, the package index has it for CUDA, and
    shims/torchvision-cpu-ops makes it importable.
    """
    wanted = f"{torch['torch']}+cpu"
    if wanted not in list_versions("torch", *options):
        return ()
    vision = f"{torch['torchvision']}+cpu"
    if vision not in list_versions("torchvision", *options):
        vision, options = (
            torch["torchvision"],
            tuple(word.replace("--index-url", "--extra-index-url") for word in options),
        )
    return (*options, f"torch=={wanted}", f"torchvision=={vision}")


def list_versions(name: str, *options: str) -> list[str]:
    """The versions that pip could install here; none if the index does not answer in time."""
    command = [sys.executable, "-m", "pip", "index", "versions", name, *options, "--retries", "0"]
    command += ["--timeout", str(ANSWER_SECONDS), "--disable-pip-version-check"]
    said = re.search(r"^Available versions: (.*)$", _run(command, seconds=ASK_SECONDS), re.M)
    return said[1].split(", ") if said else []


def explain_unsupported() -> str | None:
    """Why no build can be installed here, or None."""
    machine = platform.machine()
    if sys.platform == "darwin":
        return None if machine == "arm64" else "PyTorch has no builds for Intel Macs"
    if machine not in ("x86_64", "aarch64"):
        return f"there are no wheels of PyTorch and vLLM for {machine}, only x86_64 and aarch64"
    library, version = platform.libc_ver()
    if library != "glibc":
        return "PyTorch and vLLM have wheels for glibc (Debian, Ubuntu, Fedora, ...), not for musl"
    if tuple(map(int, version.split(".")[:2])) < (2, 28):
        return f"glibc {version} is older than 2.28, which the wheels of PyTorch and vLLM need"
    return None


def _run(command: list[str], *, seconds: float) -> str:
    """The output of a command, or nothing if it fails or times out."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
