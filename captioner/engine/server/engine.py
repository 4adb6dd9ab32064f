"""OpenAI-compatible servers (`vllm serve` and others) as one engine."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Any

from captioner.engine.config import ServerConfig
from captioner.engine.protocol import Generation, Request
from captioner.engine.server.address import read_key
from captioner.engine.server.chat import PromptSettings
from captioner.engine.server.client import ServerClient
from captioner.engine.server.dispatcher import Dispatcher
from captioner.engine.server.loop_thread import LoopThread
from captioner.engine.server.patience import Patience
from captioner.engine.server.probe import ServerProfile, check_alike, probe_server
from captioner.engine.server.served import ServedModelAt, describe_servers, print_event
from captioner.engine.stopping import check_stop
from captioner.llava.chat_template import Prompt
from captioner.llava.preprocess import Preprocessing
from captioner.llava.sampling import Sampling

# About what vLLM can run at a time with LLaVA-1.5-7B on 80 GB; other servers queue requests.
_VLLM_WINDOW, _OTHER_WINDOW = 128, 16
# Stop requests must be noticed; with room for more, decoded images may be on their way.
_WAIT_SECONDS, _WAIT_WITH_ROOM = 0.2, 0.01


class ServerEngine:
    """The same model on one or several servers. The API key is read from OPENAI_API_KEY."""

    name = "server"

    def __init__(
        self,
        config: ServerConfig,
        *,
        model: str,
        prompt: Prompt,
        sampling: Sampling,
        preprocessing: Preprocessing,
        timeout: float = 600.0,
        on_event: Callable[[str], None] = print_event,
    ) -> None:
        """Ask every server for its model, and find out the form of requests.

        Args:
            model: as in `--model`; its name on each server is looked up there.
            prompt: each server applies the model's own template.
            preprocessing: how images are prepared; a blank one is sent to each server.
            timeout: seconds for one answer, including the time in the server's queue.
            on_event: called with lines for the user (a server is paused, is back); by default
                stderr.

        Raises:
            UserError: a server cannot be reached, does not serve the model, does not see images, or
                differs from the others.
            StoppedError: a stop was requested meanwhile.
        """
        self._settings = PromptSettings(prompt, sampling)
        self._preprocessing = preprocessing
        self._on_event = on_event
        self._events: SimpleQueue[str] = SimpleQueue()
        self._results: SimpleQueue[Generation | Exception] = SimpleQueue()
        self._pending = 0
        self._told: set[str] = set()
        self._failure: Exception | None = None
        self._served = describe_servers(config, model, on_event=self._on_event)
        self._clients: list[ServerClient] = []
        self._running: asyncio.Task[None] | None = None
        self._windows = [config.server_window or _choose_window(served) for served in self._served]
        self._thread = LoopThread("d2s-server")
        try:
            self._thread.call(self._open(timeout, config.patience), check=check_stop)
        except BaseException:
            self.close()
            raise

    @property
    def window(self) -> int:
        return sum(self._windows)

    @property
    def room(self) -> int:
        return self.window - self._pending

    @property
    def pending(self) -> int:
        return self._pending

    def measure(self) -> dict[str, int]:
        # Only the servers know whether these are running or waiting.
        return {}

    def submit(self, request: Request) -> None:
        if self._failure is not None:
            raise self._failure
        self._pending += 1
        if request.repetition_penalty != 1 and not self._profiles[0].form.takes_penalty:
            self._tell_once(
                "a repetition penalty is sent to vLLM only: with this server, only the seed changes"
            )
        ask, guard = request.ask, self._profiles[0].check.guard
        other = ask is not None and ask.prompt != self._settings.prompt
        if other and guard.text_tokens is not None and not guard.knows_other_prompts:
            self._tell_once(
                "whether the servers see each image is not checked: the length of these prompts is "
                "unknown, and so is what an image of any size adds"
            )
        self._thread.loop.call_soon_threadsafe(self._dispatcher.accept, request)

    def collect(self) -> list[Generation]:
        done: list[Generation] = []
        with contextlib.suppress(Empty):
            # Wait for the first; then take what else has arrived.
            full = self._pending >= self.window
            result = self._results.get(timeout=_WAIT_SECONDS if full else _WAIT_WITH_ROOM)
            while not isinstance(result, Exception):
                done.append(result)
                result = self._results.get_nowait()
            self._failure = result
        self._tell(done)
        self._pending -= len(done)
        if self._failure is not None and not done:
            raise self._failure
        return done

    def drain(self) -> None:
        # The servers continue by themselves; `close` drops what has not arrived by then.
        pass

    def describe(self) -> dict[str, Any]:
        profile = self._profiles[0]
        return {
            "engine": self.name,
            "servers": [
                {**asdict(served), "window": window}
                for served, window in zip(self._served, self._windows, strict=True)
            ],
            "rendered_prompt": profile.rendered_prompt,
            "image_tokens": profile.check.guard.image_tokens,
            "prompt_tokens_without_image": profile.check.guard.text_tokens,
            "extra_fields": profile.form.extra,
            "window": self.window,
        }

    def close(self) -> None:
        if not self._thread.loop.is_closed():
            self._thread.call(self._end())
            self._thread.close()
        self._pending = 0

    async def _open(self, timeout: float, patience: float) -> None:
        key = read_key()
        self._clients = [
            ServerClient(served.address, key=key, connections=window, timeout=timeout)
            for served, window in zip(self._served, self._windows, strict=True)
        ]
        self._profiles: list[ServerProfile] = list(
            await asyncio.gather(
                *(
                    probe_server(
                        client,
                        served,
                        self._settings,
                        preprocessing=self._preprocessing,
                        # Anyone who could be disturbed by its events is waiting for this.
                        patience=Patience(patience, self._on_event),
                    )
                    for client, served in zip(self._clients, self._served, strict=True)
                )
            )
        )
        check_alike(self._served, self._profiles)
        self._dispatcher = Dispatcher(
            self._clients,
            self._profiles,
            self._settings,
            windows=self._windows,
            patience=patience,
            results=self._results,
            on_event=self._events.put,
        )
        self._running = asyncio.create_task(self._dispatcher.run())

    async def _end(self) -> None:
        """Drop requests in flight; vLLM aborts requests whose client has disconnected."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for client in self._clients:
            await client.close()

    def _tell(self, done: list[Generation]) -> None:
        """Events come from the loop's thread, and are reported in the caller's."""
        while not self._events.empty():
            self._on_event(self._events.get())
        if any(g.prompt_tokens is None and g.error is None for g in done):
            self._tell_once(
                "a server does not report token counts: whether it saw the images is unknown"
            )

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._on_event(line)


def _choose_window(served: ServedModelAt) -> int:
    return _VLLM_WINDOW if served.is_vllm else _OTHER_WINDOW
