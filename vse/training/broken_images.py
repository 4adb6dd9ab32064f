"""Images that cannot be decoded, left out before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator

from data.errors import UserError
from data.files.locks import hold_lock
from data.matching import list_some
from vse.runs.config import has_results
from vse.samples.corpus import BROKEN, LeftOut
from vse.samples.images import find_broken
from vse.training.spec import RunSpec

Report = Callable[[dict[str, Any]], None]


def leave_out_broken(spec: RunSpec, accelerator: Accelerator, report: Report) -> RunSpec:
    """The spec without training and validation images that cannot be decoded.

    Raises:
        UserError: too many, or one on which the run has already trained.
    """
    # The others rely on what the main process has found, so that all leave out the same images.
    with accelerator.main_process_first():
        broken = _find_broken(spec, again=accelerator.is_main_process, report=report)
    if broken and has_results(spec.out):
        raise UserError(
            f"{len(broken)} images that the run in {spec.out} started with can no longer be read "
            f"({list_some([str(image) for image in broken])}): replace them with intact copies, or "
            "use another --out to train without them"
        )
    less = spec.leave_out(broken)
    for note in less.corpus.notes:
        if note not in spec.corpus.notes:
            report({"event": "warning", "text": note})
    return less


def _find_broken(spec: RunSpec, *, again: bool, report: Report) -> list[LeftOut]:
    broken: list[LeftOut] = []
    for split in ("train", spec.recipe.data.select_split):
        # Images that the captioner has decoded are fine.
        samples = [sample for sample in spec.corpus.splits[split] if not sample.decoded]
        paths = [sample.path for sample in samples]

        def said(done: int, total: int, split: str = split) -> None:
            report({"event": "cache", "what": split, "step": done, "total": total})

        with hold_lock(spec.cache):
            faults = find_broken(paths, folder=spec.cache, report=said, again=again)
        broken += [LeftOut(split, samples[i].name, BROKEN, why) for i, why in faults.items()]
    return broken
