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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """What became of a command."""

    code: int
    out: str
    err: str


class Commands:
    """The process, from its start to its end (`with`). It stands in `folder`."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(ROOT)],
            env={**os.environ, **environment},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object) -> Done:
        """Run `d2s ARGUMENTS` to its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([str(a) for a in arguments]), file=self._process.stdin, flush=True)
        return Done(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> "Commands":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from tests.hub.commands import serve; serve()"
)


def serve() -> None:
    """Run the command of each line of stdin; answer with a line each."""
    from pipelines import cli

    # What the libraries print is not our answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(json.loads(line))
        about = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
        print(json.dumps(about), file=answers, flush=True)
