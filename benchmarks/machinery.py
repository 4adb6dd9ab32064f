"""The captioning pipeline with the scripted engine: rate, memory, kills, broken images.

    python -m benchmarks.machinery [--images 100000] [--kills 100] [--docs docs/benchmarks]

1. `--images` small JPEGs are captioned: rows per second, and the resident memory of the run after
   20,000 rows and at the end.
2. A run of the first 10,000 of them is killed with SIGKILL at `--kills` random moments, and resumed
   each time; its shards must equal those of an undisturbed run, byte for byte.
3. The same images from a folder, a Parquet file, tar files and a list of URLs (also with 1 % dead
   URLs): rows per second of each.
4. Of 10,000 images one in a hundred is broken: each has its own error row.

This takes about twenty minutes on two cores.
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
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.documents import write_figures
from benchmarks.sources import measure_sources, write_table
from data.dense.shards import read_rows

SIDE, PER_FOLDER, SHARD = 64, 1000, 1000
EARLY_ROWS = 20_000
# For the memory at the end: the last tenth of the rows and everything after them.
_LATE_SHARE = 0.9


def write_folder(folder: Path, number: int) -> None:
    """Write a thousand different small photos."""
    target = folder / f"{number:04d}"
    target.mkdir(parents=True)
    draw = np.random.default_rng(number)
    for index in range(PER_FOLDER):
        coarse = draw.integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((SIDE + 16, SIDE), Image.Resampling.BICUBIC)
        image.save(target / f"{index:04d}.jpg", quality=85)


def write_images(folder: Path, count: int) -> None:
    """Write `count` images, in folders of a thousand."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(write_folder, [folder] * (count // PER_FOLDER), range(count // PER_FOLDER)))


def start_run(
    images: Path | str, out: Path, *more: str, limit: int | None = None
) -> subprocess.Popen[str]:
    """Start `d2s caption` with the scripted engine."""
    command = [sys.executable, "-P", "-m", "pipelines.cli", "caption", "--engine", "scripted"]
    command += ["--model", "any", "--images", str(images), "--out", str(out), "--json"]
    command += ["--shard-size", str(SHARD), *more] + (["--limit", str(limit)] if limit else [])
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def measure_rate(images: Path, out: Path, count: int) -> dict[str, Any]:
    """Rows per second; MiB of the run and its decoders after 20,000 rows, and peak at the end."""
    process = start_run(images, out)
    memory: dict[str, float] = {}
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        rows = SHARD * len(list(out.glob("train-*.parquet")))
        try:
            resident = sum(p.memory_info().rss for p in (watched, *watched.children(True))) / 2**20
        except psutil.NoSuchProcess:
            continue
        if rows >= EARLY_ROWS:
            memory.setdefault("early", resident)
        if rows >= _LATE_SHARE * count:
            # This includes the last pass over all texts, which looks for duplicates.
            memory["late"] = max(memory.get("late", 0.0), resident)
        time.sleep(0.25)
    assert process.stdout is not None
    result = json.loads(process.stdout.read())
    return {
        "rows": result["rows"],
        "rate": result["generated"] / result["seconds"],
        "early_mib": memory.get("early"),
        "late_mib": memory.get("late"),
    }


def measure_source(source: str, out: Path) -> float:
    """Rows per second from one source."""
    process = start_run(source, out)
    assert process.stdout is not None
    result = json.loads(process.stdout.read())
    assert process.wait() in (0, 3)
    return float(result["generated"] / result["seconds"])


def kill_often(images: Path, scratch: Path, *, kills: int, rows: int) -> dict[str, Any]:
    """SIGKILL at random moments, `kills` times; returns whether the result is the same."""
    assert start_run(images, scratch / "whole", limit=rows).wait() == 0
    whole = read_shards(scratch / "whole")
    draw = random.Random(0)
    hits = tries = 0
    while hits < kills:
        out = scratch / f"out-{tries}"
        tries += 1
        while hits < kills:
            process = start_run(images, out, limit=rows)
            try:
                process.wait(draw.uniform(0.3, 2.5))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                hits += 1
        assert start_run(images, out, limit=rows).wait() == 0
        if read_shards(out) != whole:
            raise SystemExit(f"{out} differs from the undisturbed run")
        assert not (out / "journal").exists()
    return {"kills": hits, "runs": tries, "rows": rows, "identical": True}


def read_shards(out: Path) -> dict[str, bytes]:
    """The contents of all shards."""
    paths = [*sorted(out.glob("*.parquet")), out / "receipts.jsonl"]
    return {path.name: path.read_bytes() for path in paths}


def break_some(images: Path, out: Path, *, rows: int) -> dict[str, Any]:
    """Truncate, empty or overwrite every hundredth image."""
    files = sorted(images.rglob("*.jpg"))[:rows]
    broken = files[::100]
    for number, path in enumerate(broken):
        content = path.read_bytes()
        path.write_bytes((content[: len(content) // 2], b"", b"no image")[number % 3])
    code = start_run(images, out, limit=rows).wait()
    table = read_rows(out, ["file_name", "status", "error"])
    statuses = table.column("status").to_pylist()
    wrong = {str(path.relative_to(images)) for path in broken}
    names = table.column("file_name").to_pylist()
    found = {name for name, status in zip(names, statuses, strict=True) if status != "ok"}
    assert found == wrong and len(names) == rows and code == 3
    return {"rows": len(names), "error_rows": len(found), "exit_code": code}


def describe_memory(rate: dict[str, Any]) -> str:
    """Memory early and late in a run; nothing of one that was too short to measure it."""
    early, late = rate["early_mib"], rate["late_mib"]
    if early is None or late is None:
        return ""
    growth = 100 * (late / early - 1)
    return (
        f"; resident memory of the run and its decoders {early:.0f} MiB after {EARLY_ROWS:,} rows, "
        f"at most {late:.0f} MiB in the last tenth and at the end ({growth:+.1f} %)"
    )


def write_text(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rate, kills, broken = found["rate"], found["kills"], found["broken"]
    return (
        f"{found['machine']}; the scripted engine, JPEGs of {SIDE + 16} x {SIDE} pixels, shards of "
        f"{SHARD:,} rows.\n\n"
        f"- {rate['rows']:,} images at **{rate['rate']:,.0f} rows/s**{describe_memory(rate)}.\n"
        f"- {kills['kills']} times kill -9 at random moments over {kills['runs']} "
        f"{'run' if kills['runs'] == 1 else 'runs'} of {kills['rows']:,} images: "
        "every run ended with the same bytes.\n"
        f"- {broken['error_rows']} of {broken['rows']:,} images broken: {broken['error_rows']} "
        f"error rows, each in the place of its image; exit code {broken['exit_code']}.\n\n"
        f"{write_table(found['sources'])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--source-images", type=int, default=30_000, help="images from each source")
    parser.add_argument("--rounds", type=int, default=3, help="of the sources")
    parser.add_argument("--docs", type=Path, help="folder for machinery.md and .json")
    settings = parser.parse_args()
    rows = min(10_000, settings.images)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        images = scratch / "images"
        write_images(images, settings.images)
        found: dict[str, Any] = {"machine": f"{os.cpu_count()} {platform.machine()} cores"}
        found["rate"] = measure_rate(images, scratch / "rate", settings.images)
        print(json.dumps(found), file=sys.stderr)
        found["sources"] = measure_sources(
            images, measure_source, count=settings.source_images, rounds=settings.rounds
        )
        print(json.dumps(found), file=sys.stderr)
        found["kills"] = kill_often(images, scratch, kills=settings.kills, rows=rows)
        found["broken"] = break_some(images, scratch / "broken", rows=rows)
    text = write_text(found)
    write_figures(
        settings.docs, "machinery", title="The captioning machinery", text=text, figures=found
    )


if __name__ == "__main__":
    main()
