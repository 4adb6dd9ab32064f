"""A process that runs `d2s` commands one after another, with an environment of its own.

What decides which Hub is asked is read when the libraries are imported, so that a test cannot set
it in its own process; and importing them anew for each command would take a second of each.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """What became of a command; `waits` are the seconds that it slept, or wished to."""

    code: int
    out: str
    err: str
    waits: list[float]


class Commands:
    """The process, from its start to its end (`with`). It stands in `folder`.

    In a `hurry` it does not wait when it should, a hundredth of a second at most.
    """

    def __init__(
        self, environment: Mapping[str, str], folder: Path, *, hurry: bool = False
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(ROOT), *["hurry"] * hurry],
            env={**os.environ, **environment},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, **environment: str) -> Done:
        """Run `d2s ARGUMENTS` to its end, with these variables of the environment."""
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {"words": [str(a) for a in arguments], "environment": environment}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return Done(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> "Commands":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from tests.hub.commands import serve; "
    "serve(hurry=len(sys.argv) > 2)"
)


def serve(*, hurry: bool) -> None:
    """Run the command of each line of stdin; answer with a line each."""
    from pipelines import cli

    waits: list[float] = []
    sleep = time.sleep

    def wait(seconds: float) -> None:
        waits.append(seconds)
        sleep(min(seconds, 0.01) if hurry else seconds)

    time.sleep = wait

    # What the libraries print is not our answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked, out, err = json.loads(line), io.StringIO(), io.StringIO()
        before = dict(os.environ)
        os.environ.update(asked["environment"])
        waits.clear()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(asked["words"])
        os.environ.clear()
        os.environ.update(before)
        about = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "waits": waits}
        print(json.dumps(about), file=answers, flush=True)
