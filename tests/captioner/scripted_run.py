"""A captioning run with the scripted engine, slowed down so that a test can kill it midway.

Started as a process: images folder, output folder, shard size, seconds a step, after how many
texts it waits to be killed, and a file of prompts for several texts of each image.
"""

import itertools
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from captioner.engine.scripted import ScriptedEngine
from captioner.run.session import Progress, run_prepared, run_texts
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import PreparedRun, prepare_caption
from captioner.settings.texts import prepare_texts


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


def main(
    images: str,
    out: str,
    shard_size: str,
    seconds: str,
    most: str = "inf",
    prompts: str | None = None,
) -> None:
    config = CaptionConfig.of(
        model="any",
        images=Path(images),
        out=Path(out),
        shard_size=int(shard_size),
        engine="scripted",
        prompts=prompts,
    )
    tell = tell_until(float(most))

    def slow_down(run: PreparedRun) -> PreparedRun:
        engine = ScriptedEngine(seconds_per_step=float(seconds))
        return replace(run, choice=replace(run.choice, start=lambda _: engine))

    if prompts is None:
        run_prepared(slow_down(prepare_caption(config)), on_progress=tell)
        return
    prepared = prepare_texts(config)
    passes = tuple(tuple(map(slow_down, one)) for one in prepared.passes)
    run_texts(replace(prepared, passes=passes), on_progress=tell)


if __name__ == "__main__":
    main(*sys.argv[1:])
