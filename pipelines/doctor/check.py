"""The result of a check, and probes that try heavy imports in a separate process."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]
# Probes need no network and must not report anything to one.
_QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    `fail` means that the main functions (captioning, training and evaluation with what d2s ships)
    cannot run here; `warn` that something optional cannot; `remedy` says what to do.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)  # the details as plain values, for --json


@dataclass(frozen=True)
class Probe:
    """`facts` as printed by the code, or why there are none."""

    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def probe(code: str, *, timeout: float = 180.0) -> Probe:
    """Run `code` in a fresh interpreter; the last line it prints must be a JSON object.

    A crash there is a finding and does not end this process.

    `timeout` is in seconds, generous: the first import after an installation reads gigabytes.
    """
    # -P: do not import from the current folder, like the d2s command.
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
