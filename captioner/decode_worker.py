"""One decoding process: paths in on stdin, prepared pixels out on stdout, until stdin closes.

A process of our own rather than multiprocessing's: it needs no `__main__` guard in a user's script,
inherits no lock, survives nothing (its stdin closes when its owner dies, even by kill -9), and an
image that kills the decoder kills this process alone.
"""

import json
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

from captioner.preprocess import Preprocessing, fit_image
from data.images import ImageError, decode_image, hash_bytes, lift_pillow_limit, read_file

HEADER = struct.Struct("<II")  # bytes of the JSON header, bytes of the pixels
LENGTH = struct.Struct("<I")  # bytes of the path


def prepare_image(path: Path, preprocessing: Preprocessing) -> tuple[dict[str, Any], bytes]:
    """Read, decode and fit one image.

    Returns a header (status, error, width, height, sha256, shape) and the RGB pixels, row by row;
    no pixels where the status is not ok.
    """
    header: dict[str, Any] = {"status": "ok"}
    try:
        content = read_file(path)
        header["sha256"] = hash_bytes(content)
        image = decode_image(content, max_pixels=preprocessing.max_image_pixels)
        header["width"], header["height"] = image.size
        fitted = fit_image(image, preprocessing)
    except ImageError as error:
        header |= {"status": str(error.status), "error": str(error)}
        return header, b""
    except MemoryError:
        header |= {"status": "too_large", "error": "preparing it needs too much memory"}
        return header, b""
    header["shape"] = fitted.size
    return header, fitted.tobytes()


def serve(source: BinaryIO, sink: BinaryIO, preprocessing: Preprocessing) -> None:
    """Answer one request after another until `source` ends."""
    while len(prefix := source.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(prefix)
        path = Path(source.read(length).decode("utf-8", "surrogateescape"))
        header, pixels = prepare_image(path, preprocessing)
        encoded = json.dumps(header).encode()
        sink.write(HEADER.pack(len(encoded), len(pixels)))
        sink.write(encoded)
        sink.write(pixels)
        sink.flush()


def main(settings: str) -> None:
    """Entry of the process; `settings` is Preprocessing as JSON."""
    # Ctrl-C and a job scheduler's SIGTERM reach the whole group; the owner decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    preprocessing = Preprocessing.from_dict(json.loads(settings))
    lift_pillow_limit()
    # Nothing else may write into the stream of answers.
    sink = sys.stdout.buffer
    sys.stdout = sys.stderr
    try:
        serve(sys.stdin.buffer, sink, preprocessing)
    except BrokenPipeError:
        # The owner was killed; nobody is left to tell, nor to flush for.
        os._exit(0)
