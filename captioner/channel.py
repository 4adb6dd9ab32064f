"""Frames between a process and its children: a JSON header and raw bytes, over pipes."""

import json
import os
import select
import struct
import time
from typing import Any

_SIZES = struct.Struct("<II")  # bytes of the header, bytes of the payload


def write_frame(descriptor: int, header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one frame.

    Raises:
        BrokenPipeError: the reader is gone.
    """
    encoded = json.dumps(header).encode()
    _write_all(descriptor, _SIZES.pack(len(encoded), len(payload)) + encoded + payload)


def read_frame(descriptor: int, *, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
    """Read one frame; `deadline` is a value of `time.monotonic()`.

    Raises:
        EOFError: the writer is gone.
        TimeoutError: the frame was incomplete at the deadline.
    """
    header_bytes, payload_bytes = _SIZES.unpack(_read_exactly(descriptor, _SIZES.size, deadline))
    header: dict[str, Any] = json.loads(_read_exactly(descriptor, header_bytes, deadline))
    return header, bytes(_read_exactly(descriptor, payload_bytes, deadline))


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_exactly(descriptor: int, length: int, deadline: float | None) -> bytearray:
    content = bytearray(length)
    view, got = memoryview(content), 0
    while got < length:
        if deadline is not None:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([descriptor], [], [], remaining)[0]:
                raise TimeoutError
        count = os.readv(descriptor, [view[got:]])
        if count == 0:
            raise EOFError
        got += count
    return content
