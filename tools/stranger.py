"""Set up a clone as on an unprepared machine, then try it.

    python -m tools.stranger [--keep-pip] [--python PYTHON] [--build BUILD] [--folder FOLDER]

A fresh clone of the last commit; pip without settings or cache, unless --keep-pip is given; `make
setup`, then the first commands of a new user on ten scenes. Prints seconds and size as Markdown,
for docs/log.md. Uses only the standard library.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

from tools.trial import clean_environment, run_trial

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Clone, set up, try, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep-pip", action="store_true", help="Keep pip's settings and cache.")
    parser.add_argument("--python", help="Which Python to use. [default: the one that make finds]")
    parser.add_argument("--build", choices=("gpu", "cpu", "plain"), help="As BUILD of make.")
    parser.add_argument(
        "--folder", type=Path, help=("An empty folder, which is kept. [default: a temporary one]")
    )
    given = parser.parse_args()
    if given.folder is None:
        with tempfile.TemporaryDirectory(prefix="d2s-stranger-") as folder:
            take_through(Path(folder), given)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    if any(given.folder.iterdir()):
        parser.error(f"{given.folder} is not empty: use another --folder")
    take_through(given.folder.resolve(), given)


def take_through(folder: Path, given: argparse.Namespace) -> None:
    """Run everything in an empty folder."""
    clone, work = folder / "d2s", folder / "work"
    work.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = clean_environment(keep_pip=given.keep_pip)
    environment |= {} if given.keep_pip else {"PIP_NO_CACHE_DIR": "1"}
    environment |= {"PYTHON": given.python} if given.python else {}
    environment |= {"BUILD": given.build} if given.build else {}
    started = time.monotonic()
    subprocess.run(["make", "setup"], cwd=clone, env=environment, check=True)
    rows = [("make setup", time.monotonic() - started)]
    before = measure(clone / ".venv")
    for row in run_trial(clone / ".venv/bin/d2s", work):
        print(f"== d2s {row[0]}: {row[1]:.0f} s", flush=True)
        rows.append((f"d2s {row[0]}", row[1]))
    commit = ["git", "-C", str(clone), "rev-parse", "--short", "HEAD"]
    head = subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
    python = subprocess.run(
        [clone / ".venv/bin/python", "-V"], capture_output=True, text=True, check=True
    ).stdout.strip()
    print(f"\n{head}, {python}, {platform.machine()}, {os.cpu_count()} cores")
    print(f".venv: {before:.2f} GB, {measure(clone / '.venv'):.2f} GB after the commands\n")
    print("| step | seconds |\n|---|---|")
    print("\n".join(f"| {name} | {seconds:.0f} |" for name, seconds in rows))


def measure(folder: Path) -> float:
    """The disk usage of a folder in GB (10^9 bytes), as counted by `du`."""
    blocks = {
        (status.st_dev, status.st_ino): status.st_blocks
        for place, folders, files in os.walk(folder)
        for status in (os.lstat(os.path.join(place, name)) for name in (*folders, *files))
    }
    return sum(blocks.values()) * 512 / 1e9


if __name__ == "__main__":
    main()
