"""Makes the folders beside this file. Run in a checkout of commit cc80b12, in an empty folder:

    PYTHONPATH=CHECKOUT python make.py

They are what d2s wrote before its files were moved to their rooms: a finished captioning run and
one that was stopped midway, stage 1 finished, stage 2 stopped midway, an index.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.vse.world import TINY, write_project

HERE = Path.cwd()


def d2s(*words: str) -> None:
    subprocess.run([sys.executable, "-P", "-m", "pipelines.cli", *words], check=True)


def stop_when(ready: str, *words: str) -> None:
    process = subprocess.Popen([sys.executable, "-P", *words])
    while not any(path.stat().st_size for path in HERE.glob(ready)):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.wait()


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    write_project(HERE, optim={**TINY["optim"], "steps": 24, "eval_every": 4})
    scripted = ["--model", "any", "--engine", "scripted", "--images", "world", "--shard-size", "24"]
    d2s("caption", *scripted, "--out", "dense/finished")
    stop_when(
        "dense/begun/journal/00001*.jsonl",
        *("-m", "tests.captioner.scripted_run", "world", "dense/begun", "24", "0.2"),
    )
    dense = ["--dense", "dense/world", "--images", "world"]
    d2s("train", "--stage", "1", "--recipe", "tiny.yaml", "--steps", "4", *dense)
    stop_when(
        "runs/stage2/state/progress.json",
        *("-m", "pipelines.cli", "train", "--stage", "2", "--steps", "24", *dense),
    )
    d2s("embed", "--model", "runs/stage1", "--images", "world", "--out", "world.parquet")


if __name__ == "__main__":
    main()
