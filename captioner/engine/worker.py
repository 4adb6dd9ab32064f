"""The process of an engine: requests in on stdin, texts out on stdout.

An engine can hang, leak memory or crash; in a separate process, this only affects requests in
flight. It also leaves the main process free for decoding and writing.
"""

import json
import os
import signal
import threading
import time
import traceback
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from PIL import Image

from captioner.channel import read_frame, write_frame
from captioner.engine.factory import build_engine
from captioner.engine.protocol import Ask, Engine, Request, StartError
from data.errors import UserError, shorten_error, wants_traceback

# A sign of life between texts, so that a long text does not look like a hang.
_TICK_SECONDS = 1.0

# Requests; None means exit, and an exception is the error of the reading thread.
Inbox: TypeAlias = "SimpleQueue[Request | None | BaseException]"


def main(description: str) -> None:
    """Entry of the process; `description` is what `build_engine` takes, as JSON."""
    # The owner decides when to end; it also hears Ctrl-C and a job scheduler's SIGTERM. Blocked and
    # not ignored: vLLM's processes inherit this, and their handlers would drop all requests in
    # flight.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    # No other code may write to the owner's pipes or keep them open.
    requests, answers = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    inbox: Inbox = SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests, inbox), daemon=True).start()
    try:
        engine = build_engine(json.loads(description))
        about = {"window": engine.window, "name": engine.name, "about": engine.describe()}
        write_frame(answers, {"ready": about})
        _serve(engine, inbox, answers)
        engine.close()
    except StartError as error:
        write_frame(answers, {"died": str(error)})
    except UserError as error:
        write_frame(answers, {"failed": str(error), "exit_code": error.exit_code})
    except BrokenPipeError:
        _end_everything()
    except BaseException as error:
        # The owner reports it in one line.
        if wants_traceback():
            traceback.print_exc()
        write_frame(answers, {"died": shorten_error(error)})
        os._exit(1)


def _serve(engine: Engine, inbox: Inbox, answers: int) -> None:
    ticked = time.monotonic()
    while True:
        try:
            request = inbox.get(timeout=_TICK_SECONDS) if not engine.pending else inbox.get_nowait()
            while request is not None:
                if isinstance(request, BaseException):
                    raise request
                engine.submit(request)
                request = inbox.get_nowait()
            return
        except Empty:
            # All requests are in the engine.
            pass
        if engine.pending:
            for generation in engine.collect():
                write_frame(answers, {"done": asdict(generation)})
        if time.monotonic() - ticked > _TICK_SECONDS:
            ticked = time.monotonic()
            write_frame(answers, {"tick": engine.measure()})


def _read_requests(requests: int, inbox: Inbox) -> None:
    try:
        while True:
            header, pixels = read_frame(requests)
            inbox.put(None if header.get("close") else _make_request(header, pixels))
    except EOFError:
        _end_everything()
    except BaseException as error:  # passed to the main thread, which would otherwise wait forever
        inbox.put(error)


def _make_request(header: dict[str, Any], pixels: bytes) -> Request:
    width, height = header.pop("size")
    ask = header.pop("ask")
    image = Image.frombytes("RGB", (width, height), pixels)
    return Request(image=image, ask=ask and Ask.from_dict(ask), **header)


def _end_everything() -> None:
    """The owner has died: kill everything, including the engine's own processes."""
    os.killpg(0, signal.SIGKILL)
