"""One check: what came of it, and the process of its own in which it tries heavy imports."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]
# Nothing a probe needs comes from a network, and nothing about it is to be reported to one.
_QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Check:
    """What was looked at and what came out of it.

    `fail` means that the main job (captions, training, evaluation with what the project ships)
    cannot run here; `warn` that something a user may want cannot; `remedy` says what to do.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)  # the same as plain values, for --json


@dataclass(frozen=True)
class Probe:
    """`facts` as the code printed them, or why there are none."""

    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def probe(code: str, *, timeout: float = 180.0) -> Probe:
    """Run `code` in a fresh interpreter; the last line it prints must be a JSON object.

    A crash there is a finding, not our end.

    `timeout` is in seconds, generous: the first import after an installation reads gigabytes.
    """
    # -P: the folder we stand in must not be imported from, as it is not by the d2s command.
    command = [sys.executable, "-P", "-c", code]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **_QUIET},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe(error=f"did not finish within {timeout:.0f} s")
    if done.returncode < 0:
        return Probe(error=f"the process was killed by signal {-done.returncode}")
    if done.returncode > 0:
        return Probe(error=_last_line(done.stderr) or f"exit code {done.returncode}")
    try:
        return Probe(facts=json.loads(_last_line(done.stdout)))
    except json.JSONDecodeError:
        return Probe(error=f"no answer, but {_last_line(done.stdout)!r}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
