"""A finished run whose every row is given, for tests of what reads such runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioner.imports.join import Arrangement
from captioner.imports.run import PreparedImport, write_import
from captioner.imports.texts import TextSource
from captioner.store.journal import Outcome
from captioner.store.plan import Plan
from data.files.hashes import hash_bytes
from data.sources import ImageRecord
from data.sources.record import record_file


def write_finished(
    folder: Path,
    images: Path,
    rows: Mapping[str, str | None],
    *,
    shard_size: int = 2,
    ids: bool = True,
    captions: tuple[str, ...] | None = None,
) -> Path:
    """A row per file name; a text of None makes a decode_error. Ids are "0", "1", ...

    Files that are there have their hash and a size in the row, as after `d2s caption`.
    """
    records: list[ImageRecord] = []
    outcomes: dict[str, Outcome] = {}
    for number, (name, text) in enumerate(rows.items()):
        record = record_file(name, image_id=str(number) if ids else None, captions=captions)
        path = images / name
        known: dict[str, Any] = {"status": "decode_error", "error": "damaged"}
        if text is not None:
            known = {"status": "ok", "caption": text}
        if path.is_file():
            known |= {"image_sha256": hash_bytes(path.read_bytes()), "width": 32, "height": 24}
        records.append(record)
        outcomes[record.sample_id] = Outcome(sample_id=record.sample_id, **known)
    plan = Plan(records, shard_size)
    settings = {"model": "org/llava", "revision": "r", "prompt": "p", "engine": "scripted"}
    prepared = PreparedImport(
        directory=folder,
        images=images,
        source=TextSource("test", "jsonl", ()),
        arrangement=Arrangement(records, outcomes, ()),
        plan=plan,
        settings=settings,
        notes=(),
        previous=None,
    )
    write_import(prepared)
    return folder
