"""The identity of a run: what must not change between its sessions and processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.dense.run import read_run
from data.errors import UserError
from data.files.hashes import hash_file
from vse.recipes import Recipe
from vse.runs.config import MODEL, PROGRESS, fixed_settings, read_stage_1
from vse.samples.corpus import Corpus
from vse.samples.discovery import DataPaths


def fingerprint_run(
    stage: str, recipe: Recipe, paths: DataPaths, init: Path | None
) -> dict[str, Any]:
    """The identity of a run: settings and content, not the location of files.

    The hash of the corpus is added once it is known what is left out.
    """
    found: dict[str, Any] = {"stage": stage, "recipe": fixed_settings(recipe.to_dict())}
    if paths.dense is not None:
        names = recipe.data.texts or ()
        several = {name: _fingerprint_of(paths.dense / name) for name in names}
        found["dense"] = several or _fingerprint_of(paths.dense)
    if init is not None:
        read_stage_1(init)
        _refuse_unfinished(init)
        found["init"] = hash_file(init / MODEL)[:16]
    return found


def _fingerprint_of(folder: Path) -> Any:
    return read_run(folder).get("fingerprint")


def _refuse_unfinished(init: Path) -> None:
    path = init / PROGRESS
    try:
        finished = not path.is_file() or json.loads(path.read_bytes())["finished"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged: delete {path.parent} to use its best evaluation so far"
        ) from error
    if not finished:
        raise UserError(
            f"stage 1 in {init} is not finished: run its command again to finish it, or delete "
            f"{path.parent} to use its best evaluation so far"
        )


def hash_steps(
    fingerprint: Mapping[str, Any], recipe: Recipe, *, length: object, precision: str
) -> int:
    """A number of 48 bits, which a float holds exactly: equal for runs with equal steps.

    Settings that make no difference between two runs count too, since some decide when processes
    wait for each other.
    """
    settings = recipe.to_dict()
    settings["data"].pop("workers")
    told = json.dumps([dict(fingerprint), settings, length, precision], sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:6])


def hash_corpus(corpus: Corpus) -> str:
    """The identity of the data of a run: names, splits and texts of all images."""
    content = hashlib.sha256()
    for split, samples in corpus.splits.items():
        for sample in samples:
            # The form used when an image had at most one text.
            told = sample.dense[0] if len(sample.dense) == 1 else sample.said or None
            row = f"{split}\n{sample.name}\n{sample.captions}\n{told}\n"
            content.update(row.encode("utf-8", "replace"))
    return content.hexdigest()[:16]
