"""A trained project that the tests of `d2s evaluate` share: they change nothing in it."""

from pathlib import Path

import pyarrow.parquet as pq

from tests.vse.runs import make
from tests.vse.runs import run as run_plan
from tests.vse.world import write_project


def write_trained(folder: Path) -> Path:
    """world/ and runs/stage2/ in the current folder, which is `folder`."""
    write_project(folder)
    run_plan(make("sparse", out=Path("runs/stage2"), steps=4))
    return folder


def read_ways(path: Path) -> dict[str, list[dict]]:
    """Rows of a file of ranks by direction."""
    rows = pq.read_table(path).to_pylist()
    return {way: [r for r in rows if r["direction"] == way] for way in ("i2t", "t2i")}
