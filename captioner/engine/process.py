"""The owner's side of an engine process: two pipes, with threads so that neither side blocks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from captioner.channel import read_frame, write_frame
from captioner.engine.protocol import Request
from data.errors import UserError

_ROOT = Path(__file__).resolve().parents[2]
# -P and the explicit folder: a `data` package in the current folder must not shadow ours.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from captioner.engine.worker import main; main(sys.argv[2])"
)
_CLOSE_SECONDS, _GONE_SECONDS = 15.0, 5.0


class EngineEndedError(Exception):
    """The engine's process ended or has to be killed; the message says why."""


class EngineProcess:
    """One engine process, from start to end."""

    def __init__(self, description: dict[str, Any], environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-P", "-c", _PROGRAM, str(_ROOT), json.dumps(description)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | dict(environment),
            # A separate process group: Ctrl-C only reaches the owner, and the whole group can be
            # killed.
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._close_by: float | None = None
        self._outbox: SimpleQueue[Request | None] = SimpleQueue()
        self._inbox: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        for target in (self._write, self._read):
            threading.Thread(target=target, name="engine-pipe", daemon=True).start()

    def find_ready(self, seconds: float) -> dict[str, Any] | None:
        """The engine's description of itself, if it is ready within `seconds`.

        Raises:
            UserError: the engine cannot be started; its own message.
            EngineEndedError: its process ended.
        """
        for answer in self.receive(seconds):
            if "failed" in answer:
                raise UserError(answer["failed"], exit_code=answer["exit_code"])
            if "died" in answer:
                raise EngineEndedError(answer["died"])
            ready: dict[str, Any] = answer["ready"]
            return ready
        return None

    def send(self, request: Request) -> None:
        """Pass a request to the writing thread."""
        self._outbox.put(request)

    def receive(self, seconds: float) -> list[dict[str, Any]]:
        """The answers so far, after waiting at most `seconds` for the first.

        Raises:
            EngineEndedError: the process has ended.
        """
        answers: list[dict[str, Any]] = []
        try:
            answer = self._inbox.get(timeout=seconds) if seconds else self._inbox.get_nowait()
            while answer is not None:
                answers.append(answer)
                answer = self._inbox.get_nowait()
        except Empty:
            return answers
        if answers:
            # The end is noticed at the next call.
            self._inbox.put(None)
            return answers
        raise EngineEndedError(self._describe_end())

    def begin_close(self) -> None:
        """Tell the engine to exit; its time limit for that starts now."""
        self._outbox.put(None)
        if self._close_by is None:
            self._close_by = time.monotonic() + _CLOSE_SECONDS

    def close(self) -> None:
        """Let the engine exit within a time limit, then kill it."""
        self.begin_close()
        assert self._close_by is not None
        self._wait(max(0.0, self._close_by - time.monotonic()))
        self.end()

    def end(self) -> None:
        """Kill the process and its descendants, and wait until they are gone."""
        self.kill()
        # A process that hangs in a driver cannot be waited for.
        self._wait(_GONE_SECONDS)

    def kill(self) -> None:
        """Kill the process and its descendants; `is_gone` says when this is done."""
        # It and its descendants may have ended already.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._outbox.put(None)

    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def _describe_end(self) -> str:
        """Describe how the process ended; it has closed its side."""
        self._wait(_GONE_SECONDS)
        code = self._process.poll()
        if code is None:
            return "its process closed its pipe"
        if code >= 0:
            return f"its process ended with exit code {code}"
        hint = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-code).name}{hint}"

    def _write(self) -> None:
        assert self._process.stdin is not None
        with self._process.stdin as pipe:
            try:
                while (request := self._outbox.get()) is not None:
                    image = request.image
                    header = {
                        "key": request.key,
                        "size": image.size,
                        "image_sha256": request.image_sha256,
                        "seed": request.seed,
                        "repetition_penalty": request.repetition_penalty,
                        "ask": request.ask and asdict(request.ask),
                    }
                    write_frame(pipe.fileno(), header, image.tobytes())
                write_frame(pipe.fileno(), {"close": True})
                # Closing the pipe would end the process at once.
                self._process.wait()
            except BrokenPipeError:
                # It has died; the reading thread reports it.
                return

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            try:
                while True:
                    answer, _ = read_frame(pipe.fileno())
                    self._inbox.put(answer)
            except EOFError:
                self._inbox.put(None)
