"""Build a release and test it outside the clone: `make release-check`.

An sdist and its wheel are built and checked; each is installed into a new environment with the
locked packages, and the first commands of a new user are run there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.trial import clean_environment, run_trial

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


def main() -> None:
    """Build, check, install and try; the first failure stops with one line and exit code 1."""
    step("building", [sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT)], fresh=DIST)
    files = sorted(DIST.iterdir())
    check = [sys.executable, "-m", "twine", "check", "--strict"]
    step("checking metadata", [*check, *map(str, files)])
    for file in files:
        with tempfile.TemporaryDirectory(prefix="d2s-release-") as folder:
            try_release(file, Path(folder))
    print(f"== ready for release: {', '.join(file.name for file in files)}")


def try_release(file: Path, folder: Path) -> None:
    """Install one file into a new environment and run the first commands there."""
    home, work = folder / "environment", folder / "work"
    work.mkdir()
    print(f"== {file.name}: a new environment", flush=True)
    # The setup of a clone, without d2s itself: it chooses the same build.
    for name in ("tools", "requirements", "shims"):
        shutil.copytree(ROOT / name, home / name)
    for name in ("Makefile", "setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    step("installing what is locked", ["make", "-C", str(home), "setup"])
    pip = [str(home / ".venv/bin/python"), "-m", "pip"]
    step("removing the clone's metadata", [*pip, "uninstall", "--yes", "-qq", "d2s-vse"])
    install = [*pip, "install", "-qq", "--no-deps", "--no-build-isolation", str(file)]
    step(f"installing {file.name}", install)
    for name, seconds in run_trial(home / ".venv/bin/d2s", work):
        print(f"== d2s {name}: {seconds:.0f} s", flush=True)


def step(title: str, command: list[str], *, fresh: Path | None = None) -> None:
    """Run a command; `fresh` is a folder to recreate.

    Raises:
        SystemExit: it failed.
    """
    print(f"== {title}", flush=True)
    if fresh is not None:
        shutil.rmtree(fresh, ignore_errors=True)
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(keep_pip=True))
    if done.returncode:
        sys.exit(f"release-check: {title} failed, see above")


if __name__ == "__main__":
    main()
