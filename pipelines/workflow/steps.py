"""Running d2s commands in sequence or in parallel, and recording their times.

Each step is a separate process: the engine seeds the global random state and needs one thread,
training needs both cores, and every printed command can be typed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files.atomic import write_json
from data.files.locks import keep_others_out
from data.signals import StopRequest
from pipelines.console.command_line import say
from pipelines.console.outputs import refuse_foreign
from pipelines.workflow.forkserver import run_forked
from pipelines.workflow.origin import UNKNOWN, hash_code
from pipelines.workflow.stopping import RunningCommands

PARTIAL, INTERRUPTED = 3, 130


@dataclass(frozen=True)
class Command:
    """One step: its name, the arguments after `d2s`, and the threads it may use.

    `makes`: its output, relative to the workflow's folder; if that is missing, the step is not
    done.
    """

    name: str
    arguments: tuple[str, ...]
    threads: int | None = None
    makes: str | None = None

    @property
    def line(self) -> str:
        return shlex.join(["d2s", *self.arguments])


class Workflow:
    """Commands run in `folder`, recorded in steps.json so that finished ones are not repeated."""

    def __init__(
        self, folder: Path, *, settings: dict[str, object], results: Sequence[str] = ()
    ) -> None:
        """`results` are files that will be written to `folder` at the end.

        Raises:
            UserError: `folder` contains a workflow with other settings, or other files with these
                names.
        """
        self.folder = folder
        self.path = folder / "steps.json"
        self._lock = threading.Lock()
        self._running = RunningCommands()
        self._code = hash_code()
        self.record = _find_record(folder, settings, results)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.record)
        others = [code for code in self.list_code() if code != self._code]
        if others:
            say(
                f"warning: steps in {folder} were run by other code ({', '.join(others)}; now "
                f"{self._code}): their results may not be comparable"
            )

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, folder: Path, *, settings: dict[str, object], results: Sequence[str] = ()
    ) -> Iterator[Workflow]:
        """A workflow that no other process works on; SIGTERM ends its commands like Ctrl-C.

        Raises:
            UserError: another process is working on it, and as for `Workflow`.
        """
        _find_record(folder, settings, results)  # before the lock is written there
        with keep_others_out(folder, warn=say, doing="running d2s commands"):
            workflow = cls(folder, settings=settings, results=results)
            with workflow._running:
                yield workflow

    def list_code(self, names: Collection[str] | None = None) -> list[str]:
        """The hashes of the code that ran the finished steps, or those with these names."""
        steps = self.record["steps"].items()
        done = [step for name, step in steps if step["done"] and (names is None or name in names)]
        return list(dict.fromkeys(code for step in done for code in step.get("code", [UNKNOWN])))

    @property
    def wall_seconds(self) -> float:
        """Wall-clock seconds over all sessions; less than the sum of parallel steps."""
        return float(self.record.get("wall_seconds", 0.0))

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        """Count the time inside, unless all steps were already done."""
        started, before = time.monotonic(), self.seconds()
        try:
            yield
        finally:
            # After Ctrl-C, parallel steps may still be recording their ends.
            with self._lock:
                if self.seconds() != before:
                    self.record["wall_seconds"] = self.wall_seconds + time.monotonic() - started
                    write_json(self.path, self.record)

    def seconds(self) -> dict[str, float]:
        """Seconds of each step so far, including interrupted attempts."""
        return {name: step["seconds"] for name, step in self.record["steps"].items()}

    def run(
        self,
        command: Command,
        *,
        prefix: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run one command and show its output, with `prefix` if given.

        Args:
            environment: additional environment variables.

        Raises:
            UserError: it fails.
        """
        self._run(
            command,
            lambda: _execute(command, self.folder, prefix, environment or {}, self._running),
            prefix,
        )

    def run_quietly(self, command: Command, *, environment: Mapping[str, str]) -> None:
        """Run one command in a process that need not import torch again (see `forkserver`).

        Its output goes to a file in logs/.

        Raises:
            UserError: it fails; names that file.
        """
        path = self.folder / "logs" / (re.sub(r"[^\w.+-]+", "-", command.name) + ".log")
        path.parent.mkdir(exist_ok=True)

        def execute() -> int:
            with path.open("a", encoding="utf-8") as log:
                return run_forked(
                    command.arguments,
                    folder=self.folder,
                    threads=command.threads,
                    environment=environment,
                    tell=lambda line: print(line, file=log, flush=True),
                    running=self._running,
                )

        self._run(command, execute, None, log=path)

    def is_done(self, command: Command) -> bool:
        """Whether this exact command was finished and its output still exists."""
        before = self.record["steps"].get(command.name, {})
        there = command.makes is None or (self.folder / command.makes).exists()
        return bool(before.get("done") and before["command"] == command.line and there)

    def run_side_by_side(self, *chains: Sequence[Command]) -> None:
        """Run chains of commands in parallel; output lines are prefixed with the step's name."""

        def follow(chain: Sequence[Command]) -> None:
            for command in chain:
                self.run(command, prefix=command.name)

        # It waits for the commands even after an interruption, which they have received too.
        with ThreadPoolExecutor(len(chains)) as pool:
            for future in [pool.submit(follow, chain) for chain in chains]:
                future.result()

    def _run(
        self,
        command: Command,
        execute: Callable[[], int],
        prefix: str | None,
        log: Path | None = None,
    ) -> None:
        before = self.record["steps"].get(command.name, {"seconds": 0.0, "done": False})
        if self.is_done(command):
            say(f"{command.name}: already done, in {before['seconds']:.0f} s")
            return
        if before["done"]:
            before = {"seconds": 0.0}
        if log is None:
            if prefix is None:
                say("")
            say(f"$ {command.line}" if prefix is None else f"[{prefix}] $ {command.line}")
        started = time.monotonic()
        try:
            code = execute()
        finally:
            self._note(command, before["seconds"] + time.monotonic() - started, done=False)
        if code == PARTIAL and command.arguments[0] != "caption":
            # Running it again would not help; training limits how many images may be missing.
            where = log or "the lines above"
            say(f"{command.name}: done, but some images were left out: see {where}")
        elif code != 0:
            raise UserError(
                f"{command.name} failed (exit code {code}): see {log or 'the lines above'}; "
                f"`cd {self.folder} && {command.line}` repeats the step alone",
                exit_code=INTERRUPTED if code in (INTERRUPTED, -2) else 1,
            )
        self._note(command, self.record["steps"][command.name]["seconds"], done=True)

    def _note(self, command: Command, seconds: float, *, done: bool) -> None:
        with self._lock:
            before = self.record["steps"].get(command.name, {"done": True})
            codes = [] if before["done"] else before.get("code", [UNKNOWN])
            self.record["steps"][command.name] = {
                "command": command.line,
                "seconds": seconds,
                "done": done,
                # Of all attempts: training continues where the one before it stopped.
                "code": list(dict.fromkeys([*codes, self._code])),
            }
            write_json(self.path, self.record)


def _execute(
    command: Command,
    folder: Path,
    prefix: str | None,
    variables: Mapping[str, str],
    running: RunningCommands,
) -> int:
    environment = {**os.environ, **variables}
    if command.threads is not None:
        environment["OMP_NUM_THREADS"] = str(command.threads)
    # -P: a folder of the user called `data` must not shadow ours.
    line = [sys.executable, "-P", "-m", "pipelines.cli", *command.arguments]
    output: dict[str, Any] = {"stdout": sys.stderr}
    if prefix is not None:
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process: subprocess.Popen[str] | None = None
    try:
        # A signal that arrives while the command starts is handled once it can be ended.
        with StopRequest() as stop:
            process = subprocess.Popen(
                line, cwd=folder, env=environment, text=True, errors="replace", **output
            )
        if stop.asked:
            raise KeyboardInterrupt
        with running.watch(process.terminate):
            try:
                return _follow(process, prefix)
            except KeyboardInterrupt:
                # The command receives it too and saves its state; a second one ends it at once.
                _follow(process, prefix)
                raise
    finally:
        if process is not None:
            process.kill()
            with process:  # waits for it, and closes the pipe
                pass


def _follow(process: subprocess.Popen[str], prefix: str | None) -> int:
    """Show the process's output, if piped; returns its exit code."""
    for text in process.stdout or ():
        say(f"[{prefix}] {text.rstrip()}")
    return process.wait()


def _find_record(
    folder: Path, settings: dict[str, object], results: Sequence[str]
) -> dict[str, Any]:
    """The record in a folder, or a new one; UserError if what is there is not of this workflow."""
    path = folder / "steps.json"
    if not path.exists():
        for name in results:
            refuse_foreign(folder / name)
        return {"settings": settings, "steps": {}}
    record = _read_record(path)
    # A setting that an earlier version did not record is unknown, and taken as it is here.
    known = {**settings, **record["settings"]}
    _refuse_other(folder, known, settings)
    return {**record, "settings": known}


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        return {**record, "settings": dict(record["settings"]), "steps": dict(record["steps"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a record of these steps: use another --out, or remove it"
        ) from error


def _refuse_other(folder: Path, found: dict[str, object], wanted: dict[str, object]) -> None:
    if found == wanted:
        return
    keys = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
    gap = ", ".join(f"{key} is {found.get(key)} there and {wanted.get(key)} here" for key in keys)
    raise UserError(f"{folder} holds another run ({gap}): use another --out, or remove it")
