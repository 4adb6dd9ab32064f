"""The same small JPEGs as a folder, a Parquet file, tar files and a list of URLs."""

from __future__ import annotations

import contextlib
import http.server
import io
import multiprocessing
import socket
import statistics
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PER_FILE = 5000
# One in this many URLs is dead: nothing listens there.
DEAD_EVERY = 100
TITLES = {
    "folder": "a folder",
    "parquet": "a Parquet file",
    "tars": "tar files",
    "addresses": "a list of URLs",
    "dead": "the same, 1 % of the URLs dead",
}


def measure_sources(
    images: Path, measure: Callable[[str, Path], float], *, count: int, rounds: int
) -> dict[str, list[float]]:
    """Rows per second from each kind of source, one after the other in every round.

    `measure` captions a source into a new folder, and returns its rate.
    """
    files = sorted(images.rglob("*.jpg"))[:count]
    found: dict[str, list[float]] = {name: [] for name in TITLES}
    with tempfile.TemporaryDirectory() as name, serve(images) as address, dead_port() as dead:
        scratch = Path(name)
        sources = {
            "folder": str(link_folder(files, scratch / "folder")),
            "parquet": str(write_parquet(files, scratch / "images.parquet")),
            "tars": write_tars(files, scratch),
            "addresses": str(write_list(files, images, scratch / "alive.txt", address)),
            "dead": str(write_list(files, images, scratch / "dead.txt", address, dead)),
        }
        for number in range(rounds):
            for kind, source in sources.items():
                found[kind].append(measure(source, scratch / f"out-{kind}-{number}"))
    return found


def write_table(rates: dict[str, list[float]]) -> str:
    """Markdown: medians over the rounds."""
    middle = {kind: statistics.median(values) for kind, values in rates.items()}
    less = statistics.median(
        1 - dead / alive for alive, dead in zip(rates["addresses"], rates["dead"], strict=True)
    )
    lines = [f"| {TITLES[kind]} | {rate:,.0f} |" for kind, rate in middle.items()]
    return (
        "| source | rows/s |\n|---|---|\n"
        + "\n".join(lines)
        + f"\n\nMedians of {len(rates['folder'])} rounds. The URLs are served by this machine, "
        f"which takes part of its time; {100 * less:.0f} % less with the dead ones.\n"
    )


def link_folder(files: list[Path], folder: Path) -> Path:
    for number, path in enumerate(files):
        target = folder / f"{number // 1000:04d}"
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{number:06d}.jpg").hardlink_to(path)
    return folder


def write_parquet(files: list[Path], path: Path) -> Path:
    cells = [{"bytes": file.read_bytes(), "path": f"{n:06d}.jpg"} for n, file in enumerate(files)]
    pq.write_table(pa.table({"image": cells}), path, row_group_size=1000)
    return path


def write_tars(files: list[Path], folder: Path) -> str:
    """Returns the pattern of the files."""
    starts = range(0, len(files), PER_FILE)
    for number, start in enumerate(starts):
        with tarfile.open(folder / f"images-{number:03d}.tar", "w") as archive:
            for place, file in enumerate(files[start : start + PER_FILE], start):
                content = file.read_bytes()
                entry = tarfile.TarInfo(f"{place:06d}.jpg")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return str(folder / f"images-{{000..{len(starts) - 1:03d}}}.tar")


def write_list(
    files: list[Path], images: Path, path: Path, address: str, dead: str | None = None
) -> Path:
    lines = []
    for number, file in enumerate(files):
        gone = dead is not None and number % DEAD_EVERY == DEAD_EVERY // 2
        lines.append(f"{dead if gone else address}/{file.relative_to(images)}\n")
    path.write_text("".join(lines))
    return path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


def _serve(folder: Path, given: Any) -> None:
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket.listen(512)
        given.send(server.server_port)
        server.serve_forever()


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The URL of a web server for a folder, in a separate process."""
    context = multiprocessing.get_context("spawn")
    asked, given = context.Pipe()
    process = context.Process(target=_serve, args=(folder, given), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{asked.recv()}"
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def dead_port() -> Iterator[str]:
    """An address where connections are refused: bound, but nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
