"""Turning a file of dense text into a finished captioning run: reading, joining, writing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captioner.imports.columns import TextColumns
from captioner.imports.formats import read_dense_texts
from captioner.imports.join import Arrangement, arrange_texts
from captioner.imports.texts import TextSource
from captioner.settings.images import describe_images, name_out
from captioner.store.duplicate_flags import flag_duplicates
from captioner.store.plan import Plan, write_plan
from captioner.store.rows import build_table
from captioner.store.run_record import (
    RunIdentity,
    SessionRecord,
    make_fingerprint,
    make_run_record,
    make_shard_metadata,
)
from captioner.store.store import RunStore
from data.dense.receipts import rewrite_receipts
from data.dense.run import RUN_NAME, read_run
from data.dense.shards import make_receipt, write_shard
from data.errors import UserError
from data.files.atomic import refuse_current_folder, replace_folder, write_json
from data.settings.differences import list_differences
from data.sources import Source
from data.sources.record import keep_typed
from data.sparse.released import describe_repeats, read_id_mapping, read_ids

ENGINE = "imported"
DEFAULT_SHARD_SIZE = 1000


@dataclass(frozen=True)
class PreparedImport:
    """Texts that were read and matched; nothing is written yet.

    `previous` is the run.json of the very same import, if that was done before; `command` the words
    of the command line, if it was asked there.
    """

    directory: Path
    images: Path | None
    source: TextSource
    arrangement: Arrangement
    plan: Plan
    settings: dict[str, Any]
    notes: tuple[str, ...]
    previous: dict[str, Any] | None
    command: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of the settings, which include a hash of all rows."""
        return make_fingerprint(self.settings)


@dataclass(frozen=True)
class ImportOptions:
    """The options of `d2s import`; see its --help."""

    file: str
    out: Path | None = None
    ids: Path | None = None
    id_mapping: Path | None = None
    captions: Path | None = None
    images: Path | None = None
    format: str = "auto"
    columns: TextColumns = TextColumns()
    split: str | None = None
    model_name: str | None = None
    prompt: str | None = None
    shard_size: int = DEFAULT_SHARD_SIZE
    limit: int | None = None


def prepare_import(options: ImportOptions) -> PreparedImport:
    """Read and match everything.

    Raises:
        UserError: anything that the caller can fix.
    """
    images, split = options.images, options.split
    listed = read_ids(options.ids) if options.ids is not None else None
    mapping = read_id_mapping(options.id_mapping) if options.id_mapping is not None else {}
    if images is not None and not images.is_dir():
        raise UserError(f"the image folder {images} does not exist")
    source = read_dense_texts(
        options.file,
        format=options.format,
        ids=listed,
        columns=options.columns,
        split=split,
        images=images,
    )
    arrangement = arrange_texts(
        source,
        ids=listed,
        mapping=mapping,
        captions=options.captions,
        images=images,
        split=split,
        limit=options.limit,
    )
    plan = Plan(arrangement.images, options.shard_size)
    settings = {
        "model": _resolve_model(source, options.model_name),
        "prompt": options.prompt,
        "limit": options.limit,
        **_describe_rows(source, arrangement, plan),
    }
    directory = options.out if options.out is not None else name_out(images or options.file)
    repeats = describe_repeats(listed) if listed is not None else []
    return PreparedImport(
        directory=directory,
        images=images,
        source=source,
        arrangement=arrangement,
        plan=plan,
        settings=settings,
        notes=(*repeats, *arrangement.notes, *_describe_missing(plan, images)),
        previous=_read_previous(directory, settings),
    )


def write_import(
    prepared: PreparedImport, *, on_progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Write plan, shards, receipts and run.json; the folder appears when it is complete.

    Returns:
        The content of run.json. `on_progress` receives the number of rows written. If the import
        exists, only the location of the images is updated.

    Raises:
        UserError: the disk is full, the folder cannot be written, or is not empty any more.
    """
    if prepared.previous is not None:
        return _update_images(prepared, prepared.previous)
    try:
        # A captioning run can begin there in the meantime: its lock is a file in the folder.
        with replace_folder(prepared.directory, only_empty=True) as folder:
            return _write(folder, prepared, on_progress)
    except OSError as error:
        raise UserError(
            f"cannot write to {prepared.directory}: {error.strerror or error}"
        ) from error


def _write(
    folder: Path, prepared: PreparedImport, on_progress: Callable[[int], None]
) -> dict[str, Any]:
    plan, run_id = prepared.plan, prepared.fingerprint[:16]
    write_plan(folder, plan, about=_identify(prepared).to_dict())
    metadata = make_shard_metadata(prepared.settings, run_id=run_id)
    store = RunStore(folder, plan, run_id=run_id, engine=ENGINE, run_seed=0, metadata=metadata)
    written = 0
    for index in range(plan.shards):
        path = store.locate(index)
        table = build_table(
            plan.select_shard(index),
            prepared.arrangement.outcomes,
            run_id=run_id,
            engine=ENGINE,
            run_seed=None,
        )
        write_shard(path, table, metadata=metadata)
        store.receipts[index] = make_receipt(path, index=index)
        written += table.num_rows
        on_progress(written)
    flag_duplicates(store)
    rewrite_receipts(folder, store.receipts.values())
    record = make_run_record(
        _identify(prepared), store, session=SessionRecord(), previous={}, complete=True
    )
    write_json(folder / RUN_NAME, record)
    return record


def _update_images(prepared: PreparedImport, previous: dict[str, Any]) -> dict[str, Any]:
    about = _identify(prepared).to_dict()
    if prepared.images is None or previous.get("images") == about["images"]["images"]:
        return previous
    run = {**previous, **about["images"], "source": about["source"]}
    write_json(prepared.directory / RUN_NAME, run)
    return run


def _identify(prepared: PreparedImport) -> RunIdentity:
    """Without an image folder, the location of the images is not recorded."""
    images = prepared.images
    source = Source("folder", str(keep_typed(images)) if images is not None else "")
    named = describe_images(images or "", source)
    return RunIdentity(
        settings=prepared.settings,
        images=named if images is not None else dict.fromkeys(named),
        source=source if images is not None else None,
        command=prepared.command,
    )


def _resolve_model(source: TextSource, given: str | None) -> str:
    if given is not None:
        return given
    if len(source.models) == 1:
        return next(iter(source.models))
    found = f"names {len(source.models)} models" if source.models else "names no model"
    raise UserError(
        f"{source.name} {found}: specify with --model-name which model wrote the texts; it is "
        "recorded with them"
    )


def _describe_rows(source: TextSource, arrangement: Arrangement, plan: Plan) -> dict[str, Any]:
    """The settings that depend on the texts themselves."""
    return {
        "revision": None,
        "engine": ENGINE,
        "source": {"name": source.name, "format": source.format, "sha256": source.sha256},
        "rows_sha256": _hash_rows(arrangement),
        "shard_size": plan.shard_size,
        "plan": plan.hash(),
    }


def _hash_rows(arrangement: Arrangement) -> str:
    """One hash of the content of all rows: texts, ids, names and captions."""
    total = hashlib.sha256()
    for image in arrangement.images:
        outcome = asdict(arrangement.outcomes[image.sample_id])
        # Neither the importing command nor what only generated texts have is part of the content.
        del outcome["made_by"], outcome["truncated"]
        row: Mapping[str, Any] = {
            "file_name": image.file_name,
            "image_id": image.image_id,
            "split": image.split,
            "image_url": image.image_url,
            "captions": image.captions,
            **outcome,
        }
        total.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def _describe_missing(plan: Plan, images: Path | None) -> list[str]:
    if images is None:
        return []
    missing = [r.file_name for r in plan.records if not r.locate(images).is_file()]
    if not missing:
        return []
    return [
        f"{len(missing):,} of {len(plan.records):,} images are not in {images} (for example "
        f"{missing[0]})"
    ]


def _read_previous(directory: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """run.json of the same import, None if there is nothing.

    Raises:
        UserError: something else is there, or it is the current folder.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        refuse_current_folder(directory)
        return None
    if not (directory / RUN_NAME).is_file():
        raise UserError(f"{directory} exists and contains other files: use another --out")
    previous = read_run(directory)
    before = dict(previous.get("settings", {}))
    source = before.get("source")
    if isinstance(source, dict) and Path(str(source.get("name"))).is_dir():
        # Earlier versions recorded the path of a folder.
        before["source"] = {**source, "name": Path(source["name"]).name}
    changes = list_differences(before, settings)
    if changes:
        raise UserError(
            f"{directory} contains a run with other settings ({'; '.join(changes)}): "
            "use another --out"
        )
    return previous
