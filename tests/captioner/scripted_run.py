"""A captioning run with the scripted engine, slowed down so that a test can stop it midway.

Started as a process: images folder, output folder, shard size, seconds a step, and options.
"""

import sys
from dataclasses import replace
from pathlib import Path

from captioner.engine.scripted import ScriptedEngine
from captioner.run.session import run_prepared
from captioner.settings.prepare import prepare_caption


def main(images: str, out: str, shard_size: str, seconds: str, *options: str) -> None:
    prepared = prepare_caption(
        model="any",
        images=Path(images),
        out=Path(out),
        shard_size=int(shard_size),
        engine="scripted",
        retry_errors="--retry-errors" in options,
    )
    choice = replace(
        prepared.choice, start=lambda _: ScriptedEngine(seconds_per_step=float(seconds))
    )
    run_prepared(
        replace(prepared, choice=choice),
        on_progress=lambda progress: print(progress.done, flush=True),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
