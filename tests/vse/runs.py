"""Plans of tiny training runs for the tests, and a run that is killed half way."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from tests.processes import FORK
from vse.places import find_input
from vse.plan import Plan, make_plan
from vse.recipe_files import read_recipe
from vse.run_state import recipe_of
from vse.training import train


def make(
    stage: str,
    *,
    out: Path,
    init: Path | None = None,
    overrides: tuple[str, ...] = (),
    **options: Any,
) -> Plan:
    """A plan for the project in the current folder (see world.write_project)."""
    inputs = find_input(images=None, captions=None, dense=None, wants_dense=stage != "sparse")
    return make_plan(
        stage=stage,
        out=out,
        raw=recipe_of(init) if init is not None else read_recipe("tiny.yaml"),
        overrides=overrides,
        options={f"optim__{key}": value for key, value in options.items()},
        inputs=inputs,
        init=init,
        limit=None,
    )


def run(plan: Plan) -> list[dict[str, Any]]:
    """Train and return the events."""
    torch.set_num_threads(1)
    events: list[dict[str, Any]] = []
    train(plan, report=events.append)
    return events


def run_and_die(plan: Plan, *, at: int) -> None:
    """Train in another process that is killed by SIGKILL after step `at`."""
    process = FORK.Process(target=_die, args=(plan, at))
    process.start()
    process.join(timeout=200)
    assert process.exitcode == -signal.SIGKILL


def _die(plan: Plan, at: int) -> None:
    def report(event: dict[str, Any]) -> None:
        if event["event"] == "tick" and event["step"] == at:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    train(plan, report=report)
