"""Whether killed ranks and a Ray cluster that loses machines end with the same bytes.

    python -m benchmarks.cluster [--images 100000] [--ranks 8] [--kills 100] [--docs FOLDER]

1. `--ranks` processes caption `--images` small JPEGs with the scripted engine, in one folder. At
   random moments one of them gets SIGKILL and is restarted, `--kills` times or until all is done.
2. A Ray head and two workers, each with its own network and processes (`ip netns`, `unshare`; root
   is needed, and Ray). In the middle, all processes of a worker are killed at once, and it comes
   back; then the other worker's network is cut for `--cut` seconds.

Both must produce the bytes of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.documents import write_figures
from benchmarks.machinery import read_shards, start_run, write_images
from benchmarks.nodes import Nodes, find_obstacle

_PAUSE_SECONDS = 0.5


def kill_ranks(
    images: Path, out: Path, *more: str, ranks: int, kills: int, pause: float = _PAUSE_SECONDS
) -> dict[str, Any]:
    """Run ranks until all are done; returns the number of kills and the time.

    Args:
        pause: mean seconds between two kills.

    Raises:
        SystemExit: one ended with an error.
    """

    def start(rank: int) -> subprocess.Popen[str]:
        return start_run(images, out, *more, "--rank", str(rank), "--world-size", str(ranks))

    draw, began, hits = random.Random(0), time.monotonic(), 0
    processes = {rank: start(rank) for rank in range(ranks)}
    while processes:
        time.sleep(draw.expovariate(1 / pause))
        for rank, process in list(processes.items()):
            if process.poll() is not None:
                del processes[rank]
                if process.returncode:
                    raise SystemExit(f"rank {rank} ended with {process.returncode}")
        if processes and hits < kills and (out / "run.json").exists():
            rank = draw.choice(sorted(processes))
            processes[rank].kill()
            processes[rank].wait()
            hits += 1
            processes[rank] = start(rank)
    return {"kills": hits, "seconds": time.monotonic() - began}


def disturb_cluster(images: Path, out: Path, *, cut: float) -> dict[str, Any]:
    """Run with `--cluster ray` while one machine dies and another one is cut off."""
    began = time.monotonic()
    with Nodes(["head", "one", "two"]) as nodes:
        for name in nodes.names:
            nodes.start_ray(name)
        driver = nodes.start_caption("head", images, out)
        _wait_for_shards(driver, out, 1)
        nodes.kill("one")
        _wait_for_shards(driver, out, len(list(out.glob("train-*.parquet"))) + 1)
        nodes.start_ray("one")
        with nodes.cut("two"):
            time.sleep(cut)
        code = driver.wait()
    if code:
        raise SystemExit(f"the run on the Ray cluster ended with {code}")
    return {"cut_seconds": cut, "seconds": time.monotonic() - began}


def _wait_for_shards(driver: subprocess.Popen[Any], out: Path, count: int) -> None:
    while len(list(out.glob("train-*.parquet"))) < count:
        if driver.poll() is not None:
            raise SystemExit(f"the run ended with {driver.returncode} before it was disturbed")
        time.sleep(0.05)


def compare(out: Path, whole: Path) -> None:
    """SystemExit unless both are finished and equal."""
    done = json.loads((out / "run.json").read_text())["complete"]
    if not done or read_shards(out) != read_shards(whole):
        raise SystemExit(f"{out} differs from the undisturbed run")


def write_text(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    ranks, ray = found["ranks"], found["ray"]
    lines = [
        f"{found['machine']}; the scripted engine, {found['images']:,} images.",
        "",
        f"- {ranks['ranks']} ranks, {ranks['kills']} times kill -9 at random moments, "
        f"{ranks['seconds']:.0f} s: the same bytes as an undisturbed run.",
    ]
    if "skipped" in ray:
        return "\n".join([*lines, f"- Ray in three networks: skipped, {ray['skipped']}.", ""])
    told = (
        f"- Ray in three networks, {ray['images']:,} images: the processes of a worker killed at "
        f"once, the network of another cut for {ray['cut_seconds']:.0f} s, {ray['seconds']:.0f} s "
        "in all: the same bytes."
    )
    return "\n".join([*lines, told, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000, help="a multiple of 1,000")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cut", type=float, default=60.0, help="seconds; 0 leaves Ray out")
    parser.add_argument("--docs", type=Path, help="folder for cluster.md and .json")
    settings = parser.parse_args()
    found: dict[str, Any] = {
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
        "images": settings.images,
    }
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        images, whole = scratch / "images", scratch / "whole"
        write_images(images, settings.images)
        if start_run(images, whole).wait():
            raise SystemExit("the undisturbed run failed")
        killed = kill_ranks(images, scratch / "out", ranks=settings.ranks, kills=settings.kills)
        compare(scratch / "out", whole)
        found["ranks"] = {"ranks": settings.ranks, **killed}
        print(json.dumps(found), file=sys.stderr)
        obstacle = find_obstacle() if settings.cut else "--cut 0 leaves it out"
        if obstacle is None:
            ray = disturb_cluster(images, scratch / "ray", cut=settings.cut)
            compare(scratch / "ray", whole)
            found["ray"] = {"images": settings.images, **ray}
        else:
            found["ray"] = {"skipped": obstacle}
    text = write_text(found)
    write_figures(settings.docs, "cluster", title="Ranks and clusters", text=text, figures=found)


if __name__ == "__main__":
    main()
