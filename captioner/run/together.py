"""Preparing a run: if several jobs start together, one of them lists the images.

It holds a lease until it has written the plan, for which the others wait. As with any lease, one
that is no longer renewed is taken over, and two jobs that list at the same time do no harm.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from captioner.run.track import open_track
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import (
    PreparedRun,
    choose_directory,
    prepare_caption,
    read_previous,
)
from captioner.settings.prompts import read_prompts
from captioner.settings.texts import PreparedTexts, prepare_texts
from captioner.store.leases import Leases
from captioner.store.store import LEASES_FOLDER
from data.dense.run import PLAN_NAME, RUN_NAME
from data.errors import UserError

_LISTING = "listing"
# How long to wait before saying so, and before saying it again.
_FIRST_SECONDS, _NEXT_SECONDS = 5.0, 30.0


def prepare_either(
    config: CaptionConfig, *, fetch: bool = True, listed: bool = False
) -> PreparedRun | PreparedTexts:
    """`prepare_caption`, or `prepare_texts` if `--prompts` was given."""
    prepare = prepare_caption if config.text.prompts is None else prepare_texts
    return prepare(config, fetch=fetch, listed=listed)


def prepare_together(
    config: CaptionConfig,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_event: Callable[[str], None] = lambda _: None,
) -> PreparedRun | PreparedTexts:
    """`prepare_either` for a run that starts now.

    One of several jobs writes the plan; the others read it once it is written.

    Raises:
        UserError: as `prepare_caption` does; or a stop was requested while waiting for another job.
    """
    config.refuse_unfitting()
    if config.placement.world_size == 1:
        return prepare_either(config)
    directory, folders = choose_directory(config), _list_folders(config)
    fresh = [folder for folder in (folders[0], directory) if not folder.exists()]
    before = _date_plans(folders)

    def is_listed() -> bool:
        """Whether all plans exist; with `--append`, whether a job has listed the images since."""
        dates = _date_plans(folders)
        looked = [new != old for new, old in zip(dates, before, strict=True)]
        return all(dates) and (all(looked) or not config.output.append)

    try:
        if not is_listed():
            with Leases(folders[0] / LEASES_FOLDER, owner=config.placement.owner) as leases:
                _wait_for_turn(leases, is_listed, stop=stop, on_event=on_event)
                if not is_listed():
                    prepared = prepare_either(config)
                    _begin(prepared)
                    return prepared
    except BaseException:
        # A folder that was only created for the lease does no harm.
        for folder in fresh:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    return prepare_either(config, listed=True)


def _list_folders(config: CaptionConfig) -> list[Path]:
    """The folder of each text; UserError if it cannot be written."""
    directory = choose_directory(config)
    names = [""] if config.text.prompts is None else [text.name for text in read_prompts(config)]
    folders = [directory / name for name in names]
    for folder in folders:
        read_previous(folder)
    return folders


def _date_plans(folders: Sequence[Path]) -> list[int | None]:
    """When each plan was written or last confirmed; None if there is no run yet."""
    return [_date_plan(folder) if (folder / RUN_NAME).is_file() else None for folder in folders]


def _date_plan(folder: Path) -> int | None:
    try:
        # On file systems that cache attributes, opening the file refreshes them.
        with (folder / PLAN_NAME).open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _wait_for_turn(
    leases: Leases,
    is_listed: Callable[[], bool],
    *,
    stop: Callable[[], bool],
    on_event: Callable[[str], None],
) -> None:
    """Wait until the images are listed, or this job has to list them."""
    begun, tell, other = time.monotonic(), _FIRST_SECONDS, ""
    while not _take(leases):
        if is_listed():
            return
        if stop():
            raise UserError("stopped while another job lists the images", exit_code=130)
        lease, waited = leases.read_lease(_LISTING), time.monotonic() - begun
        other = other if lease is None else lease.owner
        if waited >= tell:
            tell += _NEXT_SECONDS
            who = other or "another job"
            on_event(f"waiting for the plan: {who} is listing the images ({waited:.0f} s so far)")
        time.sleep(leases.look_seconds)
    if other and not is_listed():
        on_event(f"{other} has not finished listing the images: they are listed here")


def _take(leases: Leases) -> bool:
    try:
        return leases.take(_LISTING)
    except OSError as error:
        place = leases.folder.parent
        raise UserError(f"cannot write to {place}: {error.strerror}") from error


def _begin(prepared: PreparedRun | PreparedTexts) -> None:
    """Write the plan for which the others wait."""
    runs = prepared.runs.values() if isinstance(prepared, PreparedTexts) else [prepared]
    for run in runs:
        with contextlib.ExitStack() as stack:
            open_track(run, stack, on_event=lambda _: None).begin_plan()
