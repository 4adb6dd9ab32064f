"""An engine in a separate process, restarted when it hangs, dies or grows too large."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from captioner.engine.in_flight import InFlight
from captioner.engine.process import EngineEndedError, EngineProcess
from captioner.engine.protocol import Generation, Request
from captioner.engine.restart import Restart
from captioner.engine.stopping import check_stop
from captioner.engine.watchdog import Watchdog
from data.errors import UserError

_FULL_WAIT_SECONDS, _ROOM_WAIT_SECONDS = 0.2, 0.01
# Crashes in a row without a text in between: beyond this, no image is at fault. Finding one of a
# thousand images takes at most twelve.
_HOPELESS_DEATHS = 16
_GO_ON = (
    "finished texts are saved: run the same command again to continue "
    "(VLLM_LOGGING_LEVEL=INFO shows more)"
)


class EngineLostError(UserError):
    """The engine cannot be restarted; `reason` is the error without the advice."""

    def __init__(self, reason: str, advice: str = _GO_ON) -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


class SupervisedEngine:
    """Any engine that `build_engine` can build, as an Engine.

    When the engine crashes, its requests in flight are sent again to the next one, which is started
    in the background: `collect` never waits for it. If the engine crashes with a single image in
    flight, that image becomes an error.
    """

    def __init__(
        self,
        description: dict[str, Any],
        *,
        watch: Watchdog,
        on_event: Callable[[str], None] = lambda _: None,
        environment: Mapping[str, str] | None = None,
        called: str = "the engine",
        blame: Counter[str] | None = None,
        wait: bool = True,
    ) -> None:
        """Start the process and, with `wait`, wait until the engine is ready; else poll `is_up`.

        `environment` only applies to the engine's process; `called` is its name in messages;
        `blame` is shared by engines that hand over requests to each other
        (`captioner.engine.in_flight`).

        Raises:
            UserError: the engine cannot be started.
            StoppedError: a stop was requested meanwhile.
        """
        self._description = description
        self._watch = watch
        self._on_event = on_event
        self._environment = dict(environment or {})
        self._called = called
        self._in_flight = InFlight(Counter() if blame is None else blame)
        self._done: list[Generation] = []
        self._deaths = self._restarts = 0
        self._load: dict[str, int] = {}
        self._emptying = self._draining = False
        self._failure: EngineLostError | None = None
        self._process: EngineProcess | None = None
        self._reason = ""
        self._restart: Restart | None = self._make_restart()
        if wait:
            wait_until_up(lambda: self.is_up(_ROOM_WAIT_SECONDS), close=self.close)

    def is_up(self, wait: float) -> bool:
        """Whether the engine has become ready, after waiting at most `wait` seconds.

        Raises:
            EngineLostError: the engine does not start.
            UserError: it cannot be started with these settings.
        """
        if self._process is None and self._restart is not None:
            self._poll(self._restart, wait)
        if self._failure is not None:
            raise self._failure
        return self._process is not None

    @property
    def name(self) -> str:
        return str(self._ready["name"])

    @property
    def window(self) -> int:
        return int(self._ready["window"])

    @property
    def room(self) -> int:
        return max(0, self.window - self.pending) if self.is_open else 0

    @property
    def pending(self) -> int:
        return len(self._in_flight) + len(self._done)

    @property
    def is_open(self) -> bool:
        """Whether it is up and not draining."""
        return not (self._emptying or self.is_restarting or self._failure or self._draining)

    @property
    def is_restarting(self) -> bool:
        """Whether it crashed and its successor is not ready yet."""
        return self._restart is not None

    def measure(self) -> dict[str, int]:
        """Its last report, and the number of restarts."""
        return {**self._load, "restarts": self._restarts}

    def describe(self) -> dict[str, Any]:
        about: dict[str, Any] = self._ready["about"]
        return about

    def submit(self, request: Request) -> None:
        self._in_flight.add(request)
        self._send_waiting()

    def collect(self, *, wait: float | None = None) -> list[Generation]:
        """Return finished generations; `wait` is how long to wait for the first, in seconds.

        Raises:
            EngineLostError: it cannot be restarted, or crashes repeatedly.
        """
        if wait is None:
            wait = _ROOM_WAIT_SECONDS if self.room else _FULL_WAIT_SECONDS
        if self._restart is not None:
            self._poll(self._restart, wait)
        elif self._failure is None and not (self._draining and not self._in_flight):
            self._listen(wait)
        done, self._done = self._done, []
        if self._failure is not None and not done:
            raise self._failure
        return done

    def give_back(self) -> list[Request]:
        """Return requests that another engine can take over while this one is down or lost.

        Suspected images stay, as long as this engine will be restarted.
        """
        return self._in_flight.give_back(suspicious=self._failure is not None)

    def drain(self) -> None:
        self._draining = True
        if self._restart is not None:
            self._restart.cancel()
            self._abort()

    def begin_close(self) -> None:
        """Tell the engine to exit without waiting; `close` waits."""
        if self._restart is None and self._failure is None and self._process is not None:
            self._process.begin_close()

    def close(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self._process is not None:
            self._process.close()

    def _begin(self) -> EngineProcess:
        return EngineProcess(self._description, self._environment)

    def _listen(self, wait: float) -> None:
        assert self._process is not None
        try:
            for answer in self._process.receive(wait):
                self._take(answer)
            self._check()
        except EngineEndedError as end:
            self._recover(str(end))

    def _take(self, answer: dict[str, Any]) -> None:
        self._watch.note_sign_of_life()
        if "done" in answer:
            generation = Generation(**answer["done"])
            self._deaths = 0
            self._in_flight.finish(generation.key)
            self._done.append(generation)
            self._send_waiting()
        elif "tick" in answer:
            self._load = answer["tick"]
        elif "failed" in answer:
            raise EngineEndedError(answer["failed"])
        elif "died" in answer:
            raise EngineEndedError(answer["died"])

    def _check(self) -> None:
        if not self._emptying and (size := self._watch.bytes_too_many()) is not None:
            self._emptying = True
            self._on_event(
                f"{self._called} takes {size / 2**30:.1f} GiB, over the limit of "
                f"{self._watch.memory_limit / 2**30:.1f}: it will be restarted once it is idle"
            )
        if not self._in_flight:
            self._watch.note_sign_of_life()
            if self._emptying and not self._draining:
                self._begin_restart("it used too much memory")
        elif (silence := self._watch.seconds_silent()) is not None:
            raise EngineEndedError(f"it was silent for {silence:.0f} s")

    def _recover(self, reason: str) -> None:
        """Restart after a crash, with the requests in flight."""
        self._deaths += 1
        guilty = self._in_flight.count_crash()
        if guilty is not None:
            error = f"the engine ended on this image: {reason}"
            self._done.append(Generation(guilty, error=error))
        if self._draining:
            self._kill()
            self._abort()
        elif self._deaths >= _HOPELESS_DEATHS:
            self._give_up(
                f"{self._called} ended {self._deaths} times without producing a text in between "
                f"({reason})"
            )
        else:
            self._on_event(f"{self._called} ended ({reason}): restarting")
            self._begin_restart(reason)

    def _begin_restart(self, reason: str) -> None:
        self._reason = reason
        self._restarts += 1
        self._load = {}
        self._restart = self._make_restart()

    def _make_restart(self) -> Restart:
        started = "started" if self._process is None else "restarted"

        def say(words: str, pause: float) -> None:
            self._on_event(
                f"{self._called} could not be {started} ({words}): trying again in {pause:.0f} s"
            )

        return Restart(
            self._process, self._begin, start_seconds=self._watch.start_seconds, on_retry=say
        )

    def _poll(self, restart: Restart, wait: float) -> None:
        """Poll the start of the next process."""
        try:
            process = restart.poll(wait)
        except EngineEndedError as last:
            ended = "" if self._process is None else f" ended ({self._reason}) and"
            self._give_up(
                f"{self._called}{ended} could not be {'restarted' if ended else 'started'} in "
                f"{restart.tries} tries; last output: {last}",
                **({} if ended else {"advice": "VLLM_LOGGING_LEVEL=INFO shows more"}),
            )
            return
        if process is None:
            return
        if self._process is None:
            self._ready = restart.ready
        self._process, self._restart = process, None
        self._watch.begin(process.pid)
        excess = self._watch.bytes_too_many()
        if self._emptying and excess is not None:
            limit = f"{self._watch.memory_limit / 2**30:.1f}"
            self._give_up(
                f"{self._called} takes {excess / 2**30:.1f} GiB while idle: --memory-limit {limit} "
                "is too low for this model",
                advice=(
                    "finished texts are saved: increase the limit and run the same command again"
                ),
            )
            return
        self._emptying = False
        self._send_waiting()

    def _give_up(self, reason: str, **advice: str) -> None:
        """`collect` raises this error after returning what has finished."""
        self._failure = EngineLostError(reason, **advice)
        self._restart = None
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _abort(self) -> None:
        """Abort all requests in flight, for which no image is to blame."""
        self._restart = None
        for request in self._in_flight.give_back(suspicious=True):
            error = "the engine ended after a stop was asked for"
            self._done.append(Generation(request.key, error=error, aborted=True))

    def _send_waiting(self) -> None:
        if self._process is not None and self._restart is None and self._failure is None:
            while (request := self._in_flight.send_next()) is not None:
                self._process.send(request)


def wait_until_up(is_up: Callable[[], bool], *, close: Callable[[], None]) -> None:
    """Poll `is_up`; any error until then, including Ctrl-C and a requested stop, calls `close`."""
    try:
        while not is_up():
            check_stop()
    except BaseException:
        close()
        raise
