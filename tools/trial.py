"""The first minutes with d2s: ten scenes captioned, two steps of each stage, a search.

For any environment with the `d2s` command: used by tools/stranger.py and tools/release_check.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

COMMANDS = (
    "scenes --out scenes --train 8 --val 1 --test 1",
    "caption --model llava-scenes --images scenes",
    "verify dense/scenes",
    "train --stage 1 --recipe scenes --steps 2 --batch-size 4",
    "train --stage 2 --steps 2 --batch-size 4",
    "embed --images scenes --out scenes.parquet",
)
SEARCH = ["search", "--index", "scenes.parquet", "--json", "a large red heart"]


def run_trial(d2s: Path, folder: Path) -> Iterator[tuple[str, float]]:
    """Run the commands in an empty folder; yields each with its seconds.

    Raises:
        SystemExit: a command failed, or the search found nothing; with the output.
    """
    for line in (*map(str.split, COMMANDS), SEARCH):
        started = time.monotonic()
        said = _call(d2s, line, folder)
        yield " ".join(line[:3:2] if line[0] == "train" else line[:1]), time.monotonic() - started
    found = json.loads(said)
    if len(found["results"][0]["hits"]) != 10:
        raise SystemExit(f"d2s search did not find the ten images: {found}")


def clean_environment(*, keep_pip: bool = False) -> dict[str, str]:
    """The environment without settings of Python, make and d2s, and optionally of pip."""
    ours = ("PYTHON", "MAKE", "MFLAGS", "VIRTUAL_ENV", "D2S_", "HF_")
    unwanted = ours if keep_pip else (*ours, "PIP_", "UV_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
    return kept if keep_pip else {**kept, "PIP_CONFIG_FILE": os.devnull}


def _call(d2s: Path, words: Sequence[str], folder: Path) -> str:
    environment = clean_environment() | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(d2s), *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"d2s {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
