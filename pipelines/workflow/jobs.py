"""Running commands in parallel, in order of their dependencies, without repeating finished ones."""

from __future__ import annotations

import queue
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from data.errors import UserError
from pipelines.console.command_line import say
from pipelines.workflow.machine import VISIBLE_GPUS, name_gpus
from pipelines.workflow.steps import INTERRUPTED, Command, Workflow


@dataclass(frozen=True)
class Job:
    """Commands in sequence, which wait for the jobs named in `needs`."""

    name: str
    commands: tuple[Command, ...]
    needs: tuple[str, ...] = ()


def run_jobs(
    workflow: Workflow, jobs: Sequence[Job], *, workers: int, gpus: int = 0
) -> dict[str, str]:
    """Run the jobs, `workers` at a time, in order; returns failed jobs with reasons.

    A failure only stops jobs that depend on it. Output of commands goes to logs/.

    Args:
        gpus: this many are assigned, one per worker; with 0, every job sees all of them.

    Raises:
        UserError: a command was interrupted.
        KeyboardInterrupt: the commands running have heard it too and save their states.
    """
    return _JobQueue(workflow, jobs, workers=workers, gpus=gpus).run()


class _JobQueue:
    def __init__(self, workflow: Workflow, jobs: Sequence[Job], *, workers: int, gpus: int) -> None:
        self.workflow = workflow
        self.waiting = list(jobs)
        self.total = len(jobs)
        self.workers = workers
        self.seconds: list[float] = []
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.running: dict[Future[None], Job] = {}
        self.slots: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        names = name_gpus(gpus)
        for worker in range(workers):
            self.slots.put({VISIBLE_GPUS: names[worker % gpus]} if gpus else {})

    def run(self) -> dict[str, str]:
        pool = ThreadPoolExecutor(self.workers)
        try:
            while self._fill(pool):
                finished, _ = wait(self.running, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._note(self.running.pop(future), future)
        finally:
            pool.shutdown(cancel_futures=True)
        return self.failed

    def _fill(self, pool: ThreadPoolExecutor) -> bool:
        """Start jobs that can start; returns whether any is running."""
        while len(self.running) < self.workers:
            job = self._next()
            if job is None:
                break
            self.running[pool.submit(self._run_job, job)] = job
        return bool(self.running)

    def _next(self) -> Job | None:
        for job in [job for job in self.waiting if any(n in self.failed for n in job.needs)]:
            self.waiting.remove(job)
            self.failed[job.name] = f"needs {', '.join(n for n in job.needs if n in self.failed)}"
        for job in self.waiting:
            if all(name in self.done for name in job.needs):
                self.waiting.remove(job)
                return job
        return None

    def _run_job(self, job: Job) -> None:
        if all(self.workflow.is_done(command) for command in job.commands):
            return
        variables = self.slots.get()
        began = time.monotonic()
        say(f"started: {job.name}")
        try:
            for command in job.commands:
                self.workflow.run_quietly(command, environment=variables)
        finally:
            self.slots.put(variables)
            self.seconds.append(time.monotonic() - began)

    def _note(self, job: Job, future: Future[None]) -> None:
        try:
            future.result()
        except UserError as error:
            if error.exit_code == INTERRUPTED:
                raise
            self.failed[job.name] = str(error)
            say(f"failed: {error}")
        else:
            self.done.add(job.name)
            say(f"{len(self.done)} of {self.total} done: {job.name}{self._estimate_rest()}")

    def _estimate_rest(self) -> str:
        """Estimate the remaining time from the runs so far."""
        left = len(self.waiting) + len(self.running)
        if not self.seconds or not left:
            return ""
        minutes = statistics.fmean(self.seconds) * left / self.workers / 60
        return f"; about {minutes:.0f} minutes for the rest" if minutes >= 1 else ""
