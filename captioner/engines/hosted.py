"""An engine in a process of its own, started anew when it hangs, dies or grows too large."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from captioner.engines.engine_process import EngineEndedError, EngineProcess
from captioner.engines.protocol import Generation, Request
from captioner.engines.watch import Watch
from data.errors import UserError

_FULL_WAIT_SECONDS, _ROOM_WAIT_SECONDS = 0.2, 0.01
# Ends of the engine in a row without a text between: it is then no image's fault.
_HOPELESS_DEATHS = 12
# An image that was in the engine at so many of its ends goes in alone the next time.
_SUSPICIOUS = 2


class HostedEngine:
    """Any engine that `build_engine` knows, behind the protocol of engines.

    What is in flight when the engine ends is asked for again in the next one. An image with which
    alone in it the engine ends is that image's error.
    """

    def __init__(
        self,
        description: dict[str, Any],
        *,
        watch: Watch,
        on_event: Callable[[str], None] = lambda _: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process and wait until the engine is ready.

        `environment` is set for the engine's process alone.

        Raises:
            UserError: the engine cannot be started.
        """
        self._description = description
        self._watch = watch
        self._on_event = on_event
        self._environment = dict(environment or {})
        self._flying: dict[str, Request] = {}
        self._waiting: deque[Request] = deque()
        self._sent: set[str] = set()
        self._blame: Counter[str] = Counter()
        self._done: list[Generation] = []
        self._deaths = 0
        self._draining = False
        self._process: EngineProcess | None = None
        self._start()

    @property
    def name(self) -> str:
        return str(self._ready["name"])

    @property
    def window(self) -> int:
        return 0 if self._draining and self._flying else int(self._ready["window"])

    @property
    def pending(self) -> int:
        return len(self._flying) + len(self._done)

    def describe(self) -> dict[str, Any]:
        about: dict[str, Any] = self._ready["about"]
        return about

    def submit(self, request: Request) -> None:
        self._flying[request.key] = request
        self._waiting.append(request)
        self._send_waiting()

    def collect(self, *, wait: float | None = None) -> list[Generation]:
        """What finished; `wait` is how long to wait for the first, in seconds."""
        assert self._process is not None
        full = len(self._flying) >= int(self._ready["window"])
        if wait is None:
            wait = _FULL_WAIT_SECONDS if full else _ROOM_WAIT_SECONDS
        try:
            for answer in self._process.receive(wait):
                self._take(answer)
            self._check()
        except EngineEndedError as end:
            self._recover(str(end))
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _start(self) -> None:
        self._process = EngineProcess(self._description, self._environment)
        try:
            self._ready = self._process.wait_until_ready(self._watch.start_seconds)
        except EngineEndedError as end:
            self.close()
            raise UserError(f"the engine could not be started: {end}") from end
        except BaseException:
            self.close()
            raise
        self._watch.begin(self._process.pid)

    def _take(self, answer: dict[str, Any]) -> None:
        self._watch.hear()
        if "done" in answer:
            generation = Generation(**answer["done"])
            self._deaths = 0
            del self._flying[generation.key]
            self._sent.discard(generation.key)
            self._blame.pop(generation.key, None)
            self._done.append(generation)
            self._send_waiting()
        elif "failed" in answer:
            raise EngineEndedError(answer["failed"])
        elif "died" in answer:
            raise EngineEndedError(answer["died"])

    def _check(self) -> None:
        if not self._draining and (size := self._watch.find_excess()) is not None:
            self._draining = True
            self._on_event(
                f"the engine takes {size / 2**30:.1f} GiB, over the limit of "
                f"{self._watch.memory_limit / 2**30:.1f}: it is started anew once it is empty"
            )
        if not self._flying:
            self._watch.hear()
            if self._draining:
                self._restart()
        elif (silence := self._watch.find_silence()) is not None:
            raise EngineEndedError(f"nothing came from it for {silence:.0f} s")

    def _recover(self, reason: str) -> None:
        """Start anew after an unexpected end, with what was in flight."""
        self._deaths += 1
        lost = [key for key in self._flying if key in self._sent]
        self._blame.update(lost)
        if len(lost) == 1 and self._blame[lost[0]] > _SUSPICIOUS:
            # It was alone in there: the engine cannot take this image.
            request = self._flying.pop(lost[0])
            self._done.append(
                Generation(request.key, error=f"the engine ended on this image: {reason}")
            )
        if self._deaths >= _HOPELESS_DEATHS:
            raise UserError(
                f"the engine ended {self._deaths} times without a text between ({reason}); what "
                "was captioned is saved: run the same command again to go on "
                "(VLLM_LOGGING_LEVEL=INFO shows more)"
            )
        self._on_event(f"the engine ended ({reason}): starting it anew")
        self._restart()

    def _restart(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._start()
        excess = self._watch.find_excess()
        if self._draining and excess is not None:
            raise UserError(
                f"the engine takes {excess / 2**30:.1f} GiB with nothing in it: --memory-limit "
                f"{self._watch.memory_limit / 2**30:.1f} is too low for this model"
            )
        self._draining = False
        self._sent.clear()
        # Suspicious ones last: what is harmless gets done first.
        order = sorted(self._flying, key=lambda key: self._blame[key] >= _SUSPICIOUS)
        self._waiting = deque(self._flying[key] for key in order)
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Send all that waits; a suspicious image only into an empty engine, and alone."""
        assert self._process is not None
        while self._waiting:
            suspicious = self._blame[self._waiting[0].key] >= _SUSPICIOUS
            alone = any(self._blame[key] >= _SUSPICIOUS for key in self._sent)
            if alone or (suspicious and self._sent):
                return
            request = self._waiting.popleft()
            self._sent.add(request.key)
            self._process.send(request)
