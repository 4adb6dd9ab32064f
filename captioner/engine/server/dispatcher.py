"""Dispatches requests to servers, and again if one fails, until all have an answer."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue

from captioner.engine.protocol import Generation, Request
from captioner.engine.server.balancer import Balancer
from captioner.engine.server.chat import PromptSettings, encode_image, make_body, read_answer
from captioner.engine.server.client import RefusedError, ServerClient, ServerError
from captioner.engine.server.probe import ServerProfile
from data.errors import UserError

# Number of failures of a request before it is considered the cause.
_MOST_TRIES = 4
# Requests that were in flight when a server died so often are sent alone from then on.
_SUSPICIOUS = 2
# Threads that encode PNGs, which releases the GIL.
_ENCODERS = 2


@dataclass
class _Job:
    """A request without an answer; `failures` counts those that it may have caused.

    `deaths` are those that any other request in flight may have caused.
    """

    request: Request
    image: str | None = None
    failures: int = 0
    deaths: int = 0


class Dispatcher:
    """Runs in an event loop. Results, and fatal errors, go to `results`."""

    def __init__(
        self,
        clients: list[ServerClient],
        profiles: list[ServerProfile],
        settings: PromptSettings,
        *,
        windows: list[int],
        patience: float,
        results: "SimpleQueue[Generation | Exception]",
        on_event: Callable[[str], None],
    ) -> None:
        self._clients = clients
        self._profiles = profiles
        self._settings = settings
        self._patience = patience
        self._results = results
        self._on_event = on_event
        self._balancer = Balancer(windows, patience=patience, draw=random.Random())
        self._jobs: deque[_Job] = deque()
        self._suspects: deque[_Job] = deque()
        self._changed = asyncio.Event()
        self._end: Exception | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._encoders = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="d2s-png")

    def accept(self, request: Request) -> None:
        """Accept a request; only in the loop's thread."""
        self._jobs.append(_Job(request))
        self._changed.set()

    async def run(self) -> None:
        """Run until cancelled, or until no server has answered for too long."""
        try:
            while True:
                self._changed.clear()
                if self._end is not None:
                    raise self._end
                now = asyncio.get_running_loop().time()
                self._check_patience(now)
                # First, since a stream of others would never leave a server to them.
                self._start_all(self._suspects, now, alone=True)
                self._start_all(self._jobs, now)
                await self._wait(self._balancer.count_seconds(now) if self._is_waiting else None)
        except Exception as error:  # passed to the collecting thread, and raised there
            self._results.put(error)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._encoders.shutdown(wait=False, cancel_futures=True)

    @property
    def _is_waiting(self) -> bool:
        return bool(self._jobs or self._suspects)

    async def _wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def _check_patience(self, now: float) -> None:
        reason = self._balancer.find_timeout(now) if self._is_waiting else None
        if reason is not None:
            names = ", ".join(client.address for client in self._clients)
            raise UserError(
                f"no server has answered for {self._patience:g} s ({names}; the last said: "
                f"{reason}); finished texts are saved: check the servers, then run the same "
                "command again to continue"
            )

    def _start_all(self, jobs: deque[_Job], now: float, *, alone: bool = False) -> None:
        while jobs and (index := self._balancer.choose(now, alone=alone)) is not None:
            job = jobs.popleft()
            task = asyncio.get_running_loop().create_task(self._serve(job, index))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, job: _Job, index: int) -> None:
        try:
            generation = await self._ask(job, index)
        except ServerError as failure:
            self._note_failure(job, index, failure)
        except RefusedError as refusal:
            self._finish(Generation(job.request.key, error=f"not accepted: {refusal}"), index)
        except UserError as closed:
            # It refuses access or redirects; the other servers may not.
            self._note_failure(job, index, ServerError(str(closed), counted=False))
        except Exception as error:  # out of memory, for example: fatal
            self._end = error
        else:
            self._finish(generation, index)
        self._changed.set()

    async def _ask(self, job: _Job, index: int) -> Generation:
        if job.image is None:
            loop = asyncio.get_running_loop()
            job.image = await loop.run_in_executor(self._encoders, encode_image, job.request.image)
        client, profile = self._clients[index], self._profiles[index]
        settings, check, ask = self._settings, profile.check, job.request.ask
        if ask is not None:
            settings = PromptSettings(ask.prompt, ask.sampling, ask.answer)
            # Only the tokens of the probed prompt were counted.
            probed = ask.prompt == self._settings.prompt
            guard = check.guard if probed else check.guard.for_any_prompt()
            check = replace(check, guard=guard, max_tokens=ask.sampling.max_tokens)
        body = make_body(
            settings,
            profile.form,
            image=job.image,
            seed=job.request.seed,
            repetition_penalty=job.request.repetition_penalty,
        )
        answer = await client.post(f"{client.address}/chat/completions", body)
        return read_answer(answer, key=job.request.key, check=check)

    def _finish(self, generation: Generation, index: int) -> None:
        if self._balancer.succeed(index):
            self._on_event(f"{self._clients[index].address} answers again")
        self._results.put(generation)

    def _note_failure(self, job: _Job, index: int, failure: ServerError) -> None:
        now = asyncio.get_running_loop().time()
        first = self._balancer.fail(index, now, reason=str(failure), pause=failure.pause)
        if first:
            self._on_event(f"{self._clients[index].address} rests: {failure}")
        job.failures += failure.counted
        job.deaths += failure.shared
        if job.failures >= _MOST_TRIES:
            self._results.put(
                Generation(
                    job.request.key, error=f"failed {job.failures} times, the last: {failure}"
                )
            )
            return
        if job.deaths >= _SUSPICIOUS:
            self._suspects.append(job)
        else:
            # Before later requests: the runner writes shards in order.
            self._jobs.appendleft(job)
