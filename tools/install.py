"""Create .venv and install packages into it: `make setup`, and before every other target.

    python -m tools.install run|docs|test

Nothing is done if nothing changed: a stamp in .venv records what was installed from which lock
files. The next call repairs whatever an interrupted one left. Uses only the standard library; once
.venv exists, its own Python continues in tools/packages.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.builds import NAMES, explain_unsupported

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".d2s-setup"
SHIM = ROOT / "shims/torchvision-cpu-ops"
LAYERS = ("run", "docs", "test")


@dataclass(frozen=True)
class Stamp:
    """The contents of .venv: build, layers, their fingerprint, and the installed packages."""

    build: str | None = None
    layers: tuple[str, ...] = ()
    fingerprint: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    forced = os.environ.get("BUILD") or None
    if forced not in (None, *NAMES) or not set(arguments) <= set(LAYERS):
        return fail(f"BUILD must be one of {', '.join(NAMES)}, not {forced!r}")
    stamp = read_stamp()
    layers = tuple(name for name in LAYERS if name in (*stamp.layers, *arguments, "run"))
    if "test" in layers:  # it contains what the documentation needs
        layers = LAYERS
    if is_done(stamp, layers, forced):
        return 0
    if (why := explain_unsupported()) is not None:
        return fail(why)
    if (why := make_venv()) is not None:
        return fail(why)
    build = forced or (stamp.build if stamp.complete else None) or "look"
    command = [str(VENV / "bin/python"), "-m", "tools.packages", build, *layers]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def is_done(stamp: Stamp, layers: tuple[str, ...], forced: str | None) -> bool:
    """Whether .venv already contains all of it."""
    if not stamp.complete or stamp.build is None or forced not in (None, stamp.build):
        return False
    return layers == stamp.layers and stamp.fingerprint == find_fingerprint(layers)


def find_fingerprint(layers: Iterable[str]) -> str:
    """A hash of everything that affects .venv, including its path, which scripts contain."""
    parts = [*sorted(ROOT.glob("requirements/lock-*.txt")), *sorted(SHIM.glob("*.*"))]
    parts += [ROOT / name for name in ("setup.cfg", "setup.py", "pyproject.toml")]
    parts += [VENV / "pyvenv.cfg"]
    found = hashlib.sha256(f"{ROOT} {' '.join(layers)}".encode())
    for path in parts:
        if path.is_file():
            found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def read_stamp() -> Stamp:
    """The stamp of the last call; empty if it cannot be read."""
    try:
        told = json.loads(STAMP.read_text())
        return Stamp(**{**told, "layers": tuple(told["layers"])})
    except (OSError, ValueError, TypeError, KeyError):
        return Stamp()


def write_stamp(stamp: Stamp) -> None:
    """Write the stamp atomically."""
    part = STAMP.with_suffix(".part")
    part.write_text(json.dumps(asdict(stamp), indent=1))
    part.replace(STAMP)


def make_venv() -> str | None:
    """Make sure that .venv has a Python of this version and pip; returns an error, if any."""
    python = VENV / "bin/python"
    ours = "{}.{}".format(*sys.version_info[:2])
    code = "import sys, pip._internal.cli.main; print('{}.{}'.format(*sys.version_info[:2]))"
    asked = [str(python), "-c", code]
    if python.exists() and _try(asked) == (0, ours):
        return None
    base = getattr(sys, "_base_executable", sys.executable)  # not that of .venv itself
    print(f"== creating {VENV.name} with {base} ({ours})", flush=True)
    for link in VENV.glob("bin/python*"):  # venv does not replace dangling links
        link.unlink()
    # First try to update it; a partly created one may be beyond repair.
    for more in ([] if _is_of(ours) else ["--clear"], ["--clear"]):
        failed, said = _try([base, "-m", "venv", *more, str(VENV)])
        if not failed and _try(asked) == (0, ours):
            return None
    return (
        f"the virtual environment could not be created: {said.splitlines()[-1] if said else failed}"
    )


def fail(why: str) -> int:
    """One line for the user of make."""
    print(f"make: {why}", file=sys.stderr)
    return 1


def _is_of(version: str) -> bool:
    """Whether .venv is for this version of Python, or does not exist."""
    libraries = list(VENV.glob("lib/python3.*"))
    return all(path.name == f"python{version}" for path in libraries)


def _try(command: list[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return 1, str(error)
    return done.returncode, (done.stdout or done.stderr).strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
