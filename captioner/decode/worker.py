"""One decoding process: addresses in on stdin, prepared pixels out on stdout, until stdin closes.

Not a process of multiprocessing: it needs no `__main__` guard in a user's script, inherits no
locks, ends when its owner dies (its stdin closes, even after kill -9), and an image that crashes
the decoder only kills this process.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from captioner.channel import read_frame, write_frame
from captioner.llava.preprocess import Preprocessing, fit_image
from data.files.hashes import hash_bytes
from data.images import ImageError, decode_image, lift_pillow_limit
from data.sources.reader import ImageReader
from data.sources.record import Source


def prepare_image(
    read: Callable[[], bytes], preprocessing: Preprocessing
) -> tuple[dict[str, Any], bytes]:
    """Read, decode and fit one image.

    Returns a header (status, error, width, height, sha256, shape) and the RGB pixels, row
    by row; no pixels if the status is not ok.
    """
    header: dict[str, Any] = {"status": "ok"}
    try:
        content = read()
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
    except Exception as error:
        # Each image becomes a row, whatever a library raises.
        reason = " ".join(str(error).split())
        header |= {"status": "decode_error", "error": f"{type(error).__name__}: {reason}"}
        return header, b""
    header["shape"] = fitted.size
    return header, fitted.tobytes()


def serve(requests: int, answers: int, reader: ImageReader, preprocessing: Preprocessing) -> None:
    """Answer one request after another until `requests` ends.

    A request's payload is an address, or the image's bytes if the header says "content".
    """
    with contextlib.suppress(EOFError):
        while True:
            header, asked = read_frame(requests)
            read = partial(bytes if header.get("content") else reader.read, asked)
            write_frame(answers, *prepare_image(read, preprocessing))


def main() -> None:
    """Entry of the process; the first frame's header is {"preprocessing", "source"}."""
    # Ctrl-C and a job scheduler's SIGTERM reach the whole group; the owner decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Not a command-line argument: a source can have thousands of files.
    try:
        given, _ = read_frame(0)
    except EOFError:
        return
    preprocessing = Preprocessing.from_dict(given["preprocessing"])
    reader = ImageReader(Source.from_dict(given["source"]))
    lift_pillow_limit()
    # Nothing else may write to the stream of results.
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        # Ready: only now the time of the first image begins.
        write_frame(answers, {})
        serve(0, answers, reader, preprocessing)
    except BrokenPipeError:
        # The owner was killed; there is no reader left.
        os._exit(0)
