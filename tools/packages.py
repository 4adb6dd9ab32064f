"""Install the locked packages into .venv. Run by .venv's own Python.

    .venv/bin/python -m tools.packages look|gpu|cpu|plain LAYER...

Uses pip with its own settings (indexes, proxies, certificates); hashes are checked except for
torch's CPU build, which differs between indexes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

from tools.builds import Build, choose_build
from tools.install import (
    ROOT,
    SHIM,
    STAMP,
    VENV,
    Stamp,
    fail,
    find_fingerprint,
    read_stamp,
    write_stamp,
)

OURS, SHIM_NAME = "d2s-vse", "torchvision-cpu-ops"
TORCH = ("torch", "torchvision")
SITE = Path(sysconfig.get_path("purelib"))
SAY_EVERY = 30  # seconds
# Disk space, GB: each build with its tests (docs/log.md), and pip's downloads.
SPACE = {"cpu": 5, "plain": 10, "gpu": 15}


def main(forced: str, *layers: str) -> int:
    """Returns the exit code."""
    started = time.monotonic()
    torch, gpu = read_lock("torch"), read_lock("gpu")
    cuda = gpu.get("nvidia-cuda-runtime", "").partition(".")[0]
    installed = mend_installed()
    asked = None if forced == "look" else forced
    build = choose_build(asked, torch=torch, cuda=cuda, installed=installed)
    if build is None:
        return fail("no CPU build of torch is available now: try again later, or use BUILD=plain")
    print(f"== {build.why} (BUILD=gpu|cpu|plain forces one)", flush=True)
    locks = [*build.locks, *(name for name in layers if name != "run")]
    wanted = {name: version for lock in locks for name, version in read_lock(lock).items()}
    wanted |= {name: version for name, version in map(split_pin, build.torch) if name in TORCH}
    # An older stamp cannot be read: then all installed packages count as ours.
    known = read_stamp().packages or (installed if STAMP.exists() else {})
    known = {name: known[name] for name in known if name not in ("pip", OURS, SHIM_NAME)}
    missing = [name for name in wanted if installed.get(name) != wanted[name]]
    if missing and (why := check_space(build, new=len(missing) == len(wanted))) is not None:
        return fail(why)
    write_stamp(Stamp(build.name, layers, packages={**known, **wanted}))
    # Packages no longer locked, and a torch of another build, which pip considers the same.
    gone = [name for name in known if name not in wanted and name in installed]
    gone += [name for name in TORCH if name in missing and name in installed]
    if gone:
        print(f"== removing {', '.join(gone)}", flush=True)
        if pip("uninstall", "--yes", *gone):
            return fail("pip could not remove them, see above. Run make again")
    print(f"== installing {len(missing)} of {len(wanted)} packages", flush=True)
    if why := install(build, locks):
        return fail(why)
    write_stamp(Stamp(build.name, layers, find_fingerprint(layers), wanted, complete=True))
    print(f"== ready in {time.monotonic() - started:.0f} s: {VENV.name}/bin/d2s", flush=True)
    return 0


def install(build: Build, locks: Iterable[str]) -> str | None:
    """Install everything in order; returns an error, if any."""
    again = "see above. Fix that and run make again; it picks up where it stopped"
    files = [word for lock in locks for word in ("-r", f"requirements/lock-{lock}.txt")]
    if pip("install", "--require-hashes", "--only-binary", ":all:", *files):
        return f"pip could not install the locked packages, {again}"
    if build.torch and pip("install", "--only-binary", ":all:", *build.torch):
        return f"pip could not install torch's CPU build, {again} (or try BUILD=plain)"
    if pip("install", "--no-build-isolation", "--editable", "."):
        return f"pip could not install d2s itself, {again}"
    if needs_shim():
        print("== torchvision is not a CPU build like torch: installing shims/torchvision-cpu-ops")
        if pip("install", "--no-build-isolation", f"./{SHIM.relative_to(ROOT)}"):
            return f"pip could not install the shim, {again}"
    elif SHIM_NAME in read_installed():
        pip("uninstall", "--yes", SHIM_NAME)
    code = "import torch, torchvision"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"torch was installed but cannot be imported ({said}); try BUILD=plain"
    return None


def needs_shim() -> bool:
    """Whether torch is a CPU build but torchvision is not. (On macOS, both are the same build.)"""
    found = read_installed()
    return found["torch"].endswith("+cpu") and not found["torchvision"].endswith("+cpu")


def pip(command: str, *words: str) -> int:
    """pip's exit code. On a terminal it shows progress; elsewhere we do, every half minute."""
    terminal = sys.stdout.isatty()
    options = ["--disable-pip-version-check", *([] if terminal else ["-qq"])]
    if command == "install":
        # Most of what is installed is never imported; Python compiles modules on import.
        options += ["--no-deps", "--no-compile", "--no-input"]
    environment = {**os.environ, "PIP_USER": "0", "PIP_CONSTRAINT": os.devnull}
    line = [sys.executable, "-m", "pip", command, *options, *words]
    started, before = time.monotonic(), len(list(SITE.glob("*.dist-info")))
    process = subprocess.Popen(line, cwd=ROOT, env=environment)
    while True:
        try:
            return process.wait(timeout=None if terminal else SAY_EVERY)
        except subprocess.TimeoutExpired:
            new = len(list(SITE.glob("*.dist-info"))) - before
            state = f"{new} installed so far" if new else "downloading"
            print(f"== {time.monotonic() - started:.0f} s: {state}", flush=True)


def read_lock(name: str) -> dict[str, str]:
    """Canonical name -> version of a lock file's pins for this machine."""
    lines = (ROOT / f"requirements/lock-{name}.txt").read_text().splitlines()
    pins = (line.rstrip(" \\") for line in lines if line and line[0] not in "# ")
    found = map(Requirement, pins)
    return {
        canonicalize_name(pin.name): str(pin.specifier).lstrip("=")
        for pin in found
        if pin.marker is None or pin.marker.evaluate()
    }


def split_pin(word: str) -> tuple[str, str]:
    """Name and version of `name==version`."""
    name, _, version = word.partition("==")
    return name, version


def read_installed() -> dict[str, str]:
    """Canonical name -> version of the packages in .venv."""
    found = map(Distribution.at, SITE.glob("*.dist-info"))
    return {canonicalize_name(each.metadata["Name"]): each.version for each in found}


def mend_installed() -> Mapping[str, str]:
    """Complete packages. Records of incomplete ones are removed, so that pip reinstalls them."""
    for leftover in SITE.glob("~*"):  # an uninstallation that did not end
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    for record in SITE.glob("*.dist-info"):
        if not is_whole(record):
            print(f"== {record.name} is incomplete: reinstalling it", flush=True)
            shutil.rmtree(record)
    return read_installed()


def is_whole(record: Path) -> bool:
    """Whether each recorded file has its size. Bytecode may be missing, metadata may change."""
    files = Distribution.at(record).files
    if files is None or not (record / "METADATA").is_file():
        return False
    for file in files:
        if file.suffix == ".pyc" or file.parts[0].endswith(".dist-info"):
            continue
        path = Path(str(file.locate()))
        if not path.is_file() or (file.size is not None and path.stat().st_size != file.size):
            return False
    return True


def check_space(build: Build, *, new: bool) -> str | None:
    """Why there is too little space for a new environment, or None."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if new and free < SPACE[build.name]:
        return f"{ROOT} has {free:.1f} GB free, the environment takes up to {SPACE[build.name]}"
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
