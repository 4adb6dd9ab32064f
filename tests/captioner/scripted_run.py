"""A captioning run with the scripted engine, slowed down so that a test can kill it midway.

Started as a process: images folder, output folder, shard size, seconds a step, and after how many
texts it waits to be killed.
"""

import itertools
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from captioner.engine.scripted import ScriptedEngine
from captioner.run.session import Progress, run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption


def tell_until(most: float) -> Callable[[Progress], None]:
    """Print what is done, first at the beginning; after `most` texts wait to be killed.

    So whoever kills is never too late.
    """
    texts = itertools.count()

    def tell(progress: Progress) -> None:
        print(progress.done, flush=True)
        if next(texts) >= most:
            signal.pause()

    return tell


def main(images: str, out: str, shard_size: str, seconds: str, most: str = "inf") -> None:
    prepared = prepare_caption(
        CaptionConfig.of(
            model="any",
            images=Path(images),
            out=Path(out),
            shard_size=int(shard_size),
            engine="scripted",
        )
    )
    choice = replace(
        prepared.choice, start=lambda _: ScriptedEngine(seconds_per_step=float(seconds))
    )
    run_prepared(replace(prepared, choice=choice), on_progress=tell_until(float(most)))


if __name__ == "__main__":
    main(*sys.argv[1:])
