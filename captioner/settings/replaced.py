"""Keeping the texts that `--redo` replaces, and bringing them back."""

import itertools
import os
from pathlib import Path

from captioner.settings.prompts import REPLACED
from captioner.settings.texts import PreparedTexts
from captioner.store.locks import hold_folder
from data.dense.run import read_run
from data.files.atomic import sync_folder


def put_aside(prepared: PreparedTexts) -> list[str]:
    """Move the folders of changed texts to `replaced/`; returns messages for the user.

    A text that was moved there with the current settings is moved back, also if an earlier session
    was killed before it did so.

    Raises:
        UserError: another run is using one of them.
    """
    lines, kept = [], prepared.directory / REPLACED
    for name, run in prepared.runs.items():
        folder, before, told = run.directory, kept / f"{name}-{run.run_id}", ""
        if name in prepared.changed:
            with hold_folder(folder):
                kept.mkdir(exist_ok=True)
                target = _find_free(kept / f"{name}-{read_run(folder)['run_id']}")
                os.rename(folder, target)
            told = f"{name} will be generated again; the old texts are kept in {target}"
        # Several jobs begin a new text together.
        if (told or not prepared.shared) and before.is_dir() and not folder.exists():
            os.rename(before, folder)
            more = f"; the other is kept in {target}" if told else ""
            told = f"{name} is restored from {before}{more}"
        if told:
            lines.append(told)
            sync_folder(kept)
            sync_folder(prepared.directory)
    return lines


def _find_free(path: Path) -> Path:
    """The path, or one with a number if it exists."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return path if not path.exists() else next(other for other in others if not other.exists())
