"""Rebuilding records that a crash left empty or truncated, from the plan and the shards."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from captioner.store.duplicate_flags import settle_shards
from captioner.store.locks import hold_folder
from captioner.store.plan import read_about, read_plan
from captioner.store.row_form import RowForm
from captioner.store.run_record import (
    RunIdentity,
    SessionRecord,
    make_run_record,
    make_shard_metadata,
)
from captioner.store.store import RunStore
from data.dense.run import PLAN_NAME, RUN_NAME, read_run
from data.dense.shards import list_shards
from data.errors import UserError
from data.files.atomic import write_json

# Values that are no longer known stay empty.
_UNKNOWN: dict[str, Any] = {"engine": {}, "versions": {}, "hardware": {}}


def repair_run(directory: Path) -> list[str]:
    """Rewrite receipts and run.json; shards, plan and journals are not changed.

    Returns:
        Lines for the user about shards that differ from their receipt.

    Raises:
        UserError: another run is using the folder; the plan or a shard is damaged; nothing left
            identifies the run.
    """
    if not (directory / PLAN_NAME).is_file():
        raise UserError(
            f"{directory} has no {PLAN_NAME}: run the same `d2s caption` command again; it plans "
            "the same images and keeps the rows"
        )
    with hold_folder(directory):
        previous = _read_previous(directory)
        identity = _identify(directory, previous)
        settings = identity.settings
        store = RunStore(
            directory,
            read_plan(directory, shard_size=int(settings["shard_size"])),
            run_id=identity.run_id,
            engine=settings["engine"],
            run_seed=0,
            metadata=make_shard_metadata(settings, run_id=identity.run_id),
            form=RowForm.of(settings),
        )
        store.check_shards()
        complete = settle_shards(store)
        session = SessionRecord(is_new=False)
        record = make_run_record(
            identity, store, session=session, previous=previous, complete=complete
        )
        write_json(directory / RUN_NAME, record)
        return store.changed


def _read_previous(directory: Path) -> dict[str, Any]:
    try:
        previous = read_run(directory)
    except UserError:
        return _UNKNOWN
    return previous if "settings" in previous else _UNKNOWN


def _identify(directory: Path, previous: dict[str, Any]) -> RunIdentity:
    """From run.json, else the plan, else the shards, which do not record where the images are."""
    names = ("images", "images_relative", "images_given")
    about: dict[str, Any] | None = None
    if "settings" in previous:
        images = {name: previous.get(name) for name in names}
        about = {**previous, "images": images, "source": previous.get("source")}
    about = about or read_about(directory)
    shards = list_shards(directory)
    if about is None and shards:
        settings = json.loads((pq.read_schema(shards[0]).metadata or {}).get(b"d2s.run", b"{}"))
        of_rows = ("versions", "made_by")
        settings = {name: value for name, value in settings.items() if name not in of_rows}
        about = {"settings": settings, "images": dict.fromkeys(names), "source": None}
    if about is None:
        raise UserError(
            f"the settings of the run in {directory} cannot be recovered: no shard is finished, "
            "and the plan is of an older version; caption into another folder"
        )
    return RunIdentity.from_dict(about)
