"""A Slurm job array whose tasks are the ranks of one captioning run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UsageError, UserError

MARK = b"# Written by `d2s launch slurm`"
# Time before the job's limit. Requests in flight get ten seconds; Slurm may be a minute off.
_WARNING_SECONDS = 120
_NAMES, _TIME = r"[\w.,:-]+", r"\d+(-\d+)?(:\d+){0,2}"

# The shell receives the signals, not the command. It asks the command to stop, and at the time
# limit, it requeues the job. Cancelled jobs are not requeued.
_BODY = """
cd {folder} || exit 1
{command} --rank "$SLURM_ARRAY_TASK_ID" --world-size {tasks} &
child=$!
again=
trap 'again=yes; kill -TERM "$child"' USR1
trap 'kill -TERM "$child"' TERM
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
done
# If it ended before `kill -0`, the code is that of the interrupted `wait`.
wait "$child"
last=$?
[ "$last" -eq 127 ] || code=$last
if [ -n "$again" ] && [ "$code" -eq 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


@dataclass(frozen=True)
class SlurmJob:
    """The settings of a Slurm job: `tasks`, each with `gpus`; `lines` are options of sbatch.

    Raises:
        UsageError: an invalid value, or one that would break its line in the script.
    """

    tasks: int
    gpus: int = 1
    partition: str | None = None
    time: str | None = None
    lines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("partition", self.partition, _NAMES),
            ("time", self.time, _TIME),
            *(("sbatch", line, r"--?[A-Za-z].*") for line in self.lines),
        ):
            if value is not None and not (re.fullmatch(known, value) and value.isprintable()):
                raise UsageError(f"--{name} {value!r} is not valid for sbatch")

    def write_script(self, words: Sequence[str]) -> bytes:
        """The script for `d2s WORDS` in the current folder."""
        options = [
            "--job-name=d2s-caption",
            f"--array=0-{self.tasks - 1}",
            "--ntasks=1",
            *([f"--gres=gpu:{self.gpus}"] if self.gpus else []),
            *([f"--partition={self.partition}"] if self.partition else []),
            *([f"--time={self.time}"] if self.time else []),
            "--requeue",
            "--open-mode=append",
            f"--signal=B:USR1@{_WARNING_SECONDS}",
            *self.lines,
        ]
        told = MARK.decode() + ": each task is a rank of one run, in one folder."
        head = ["#!/bin/bash", told, *(f"#SBATCH {option}" for option in options)]
        body = _BODY.format(
            folder=shlex.quote(os.getcwd()),
            command=shlex.join([sys.executable, "-P", "-m", "pipelines.cli", *words]),
            tasks=self.tasks,
        )
        return os.fsencode("\n".join(head) + "\n" + body)


def submit(script: Path) -> str:
    """Submit the script; returns the output of sbatch.

    Raises:
        UserError: sbatch is missing, or refuses the script.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            f"{script} was written, but there is no sbatch here: run `sbatch {script}` on a "
            "machine of the cluster"
        )
    done = subprocess.run(["sbatch", script.absolute()], capture_output=True, text=True)
    if done.returncode:
        told = " ".join(done.stderr.split())[:300] or f"it ended with {done.returncode}"
        raise UserError(
            f"sbatch rejected {script}: {told}; fix it, or add what is missing with --sbatch"
        )
    return done.stdout.strip()
