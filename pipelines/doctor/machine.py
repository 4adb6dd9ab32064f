"""The machine: accelerators, processor, memory, disk."""

import platform
import shutil
import tempfile
from pathlib import Path

from data.environment import count_cores, name_install
from pipelines.doctor.check import Check, Probe, probe

GIB = 1024**3
# The in-process engine peaks at 1.75 GB with the shipped model; concurrent training needs about as
# much.
ENOUGH_MEMORY = 4 * GIB
ENOUGH_DISK = 2 * GIB
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")

_DEVICES = """
import json, torch
def one(i):
    p = torch.cuda.get_device_properties(i)
    return {"name": p.name, "memory": p.total_memory, "capability": f"{p.major}.{p.minor}"}
gpus = [one(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}))
"""


def check_devices(found: Probe | None = None, *, driver: bool | None = None) -> Check:
    """The devices of torch. `driver`: whether an NVIDIA driver is loaded on this machine."""
    found = found or probe(_DEVICES)
    if driver is None:
        driver = Path("/proc/driver/nvidia/version").exists()
    if found.error:
        return Check("devices", "fail", f"torch: {found.error}", "see docs/install.md")
    gpus = found.facts["gpus"]
    if gpus:
        listed = ", ".join(f"{gpu['name']} ({gpu['memory'] / GIB:.0f} GiB)" for gpu in gpus)
        return Check("devices", "ok", f"{listed}; torch {found.facts['torch']}", facts=found.facts)
    if driver:
        detail = f"this machine has a GPU, but torch {found.facts['torch']} cannot use it"
        remedy = f"in a clone: make setup BUILD=gpu; elsewhere: {name_install('vllm')}"
        return Check("devices", "warn", detail, remedy, found.facts)
    detail = f"no GPU: everything runs on the CPU (torch {found.facts['torch']})"
    return Check("devices", "ok", detail, facts=found.facts)


def check_cpu(cpuinfo: str | None = None) -> Check:
    """Cores available to this process, and vector instructions used by vLLM's CPU build."""
    cores = count_cores()
    if cpuinfo is None:
        cpuinfo = _read(Path("/proc/cpuinfo"))
    words = {
        word
        for line in cpuinfo.splitlines()
        if line.startswith(("flags", "Features"))
        for word in line.split(":", 1)[1].split()
    }
    flags = [flag for flag in FLAGS if flag in words]
    facts = {"cores": cores, "machine": platform.machine(), "flags": flags}
    listed = " ".join(flags) or "none of " + " ".join(FLAGS)
    detail = f"{cores} cores, {platform.machine()}, {listed}"
    if platform.machine() == "x86_64" and "avx2" not in flags:
        return Check("cpu", "warn", detail, "vLLM's CPU build needs AVX2: use a GPU", facts)
    return Check("cpu", "ok", detail, facts=facts)


def check_memory(available: int | None = None) -> Check:
    """Bytes of available memory, within a container's limit."""
    if available is None:
        available = _available_memory()
    facts = {"available": available}
    detail = f"{available / GIB:.1f} GiB available"
    if available < ENOUGH_MEMORY:
        remedy = f"close other programs: captioning and training need {ENOUGH_MEMORY // GIB} GiB"
        return Check("memory", "warn", detail, remedy, facts)
    return Check("memory", "ok", detail, facts=facts)


def check_folder(folder: Path | None = None, *, free: int | None = None) -> Check:
    """The current folder, the default output location: whether it is writable and has space."""
    folder = (folder or Path.cwd()).resolve()
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free if free is None else free
    except OSError as error:
        remedy = "change to another folder, or write elsewhere (`d2s caption --out`)"
        return Check("folder", "fail", f"{folder}: {error.strerror or error}", remedy)
    facts = {"folder": str(folder), "free": free}
    detail = f"{folder}, {free / GIB:.1f} GiB free"
    if free < ENOUGH_DISK:
        remedy = "free some disk space, or write elsewhere (`d2s caption --out`)"
        return Check("folder", "warn", detail, remedy, facts)
    return Check("folder", "ok", detail, facts=facts)


def _available_memory() -> int:
    """MemAvailable, or what a control group still allows, if less."""
    lines = _read(Path("/proc/meminfo")).splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    if "MemAvailable" not in fields:
        # macOS. Not at the top: the doctor reports missing packages.
        import psutil

        return int(psutil.virtual_memory().available)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        available = min(available, max(int(limit) - int(used), 0))
    return available


def _read(path: Path) -> str:
    """The file's text, or "" if it does not exist."""
    return path.read_text() if path.exists() else ""
