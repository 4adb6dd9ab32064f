"""The journal of an unfinished shard: one checksummed line per finished image.

A line is written at once, so that it survives a killed process, and synced in batches, so that a
power failure loses less than a batch.
"""

import contextlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files.atomic import explain_full_disk, replace_whole, sync_folder
from data.images import Status

JOURNAL_FOLDER = "journal"
_TRIES = 100
_SYNC_OUTCOMES = 64
_SYNC_SECONDS = 2.0


@dataclass(frozen=True)
class Outcome:
    """The result for one image: everything that its row cannot get from elsewhere.

    `truncated` says that the end of the text was cut off, which the rest does not show; `made_by`
    names the versions that generated it (`captioner.store.makers`); `sample` is the
    number of the sample, from 0.
    """

    sample_id: str
    status: str
    caption: str | None = None
    error: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    caption_tokens: int | None = None
    width: int | None = None
    height: int | None = None
    image_sha256: str | None = None
    attempt: int | None = None
    trimmed: bool | None = None
    truncated: bool | None = None
    made_by: str | None = None
    sample: int | None = None

    @property
    def key(self) -> str:
        """Unique within the run."""
        return make_key(self.sample_id, self.sample)

    @property
    def ok(self) -> bool:
        return self.status == Status.OK


def make_key(sample_id: str, sample: int | None) -> str:
    """The key of an outcome; each sample has its own."""
    return sample_id if sample is None else f"{sample_id}.{sample}"


class Journal:
    """Appends outcomes to one file."""

    def __init__(self, path: Path, *, drop_errors: bool = False) -> None:
        """Open for appending; damaged lines, and with `drop_errors` failures, are removed first.

        Raises:
            UserError: the disk is full.
        """
        self.path = path
        self.outcomes = _repair(path, drop_errors=drop_errors)
        is_new = not path.exists()
        with explain_full_disk(path):
            self._descriptor = _open(path)
            if is_new:
                sync_folder(path.parent)
        self._unsynced = 0
        self._synced_at = time.monotonic()

    def append(self, outcome: Outcome) -> None:
        """Write one outcome.

        Raises:
            UserError: the disk is full; the journal stays readable.
        """
        line = _encode(outcome)
        with explain_full_disk(self.path):
            written = os.write(self._descriptor, line)
            if written < len(line):
                # Writing the rest after a short write either completes the line or raises the
                # reason.
                os.write(self._descriptor, line[written:])
        self.outcomes[outcome.key] = outcome
        self._unsynced += 1
        if self._unsynced >= _SYNC_OUTCOMES or time.monotonic() - self._synced_at > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Force written lines to disk."""
        if self._unsynced:
            with explain_full_disk(self.path):
                os.fsync(self._descriptor)
        self._unsynced = 0
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Sync and close; the file stays."""
        if self._descriptor >= 0:
            self.sync()
            os.close(self._descriptor)
            self._descriptor = -1

    def drop(self) -> None:
        """Close and delete: the shard is finished."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self.path.unlink(missing_ok=True)


def list_journals(directory: Path, index: int | None = None) -> list[Path]:
    """The journals of a run, or of one of its shards."""
    pattern = "*.jsonl" if index is None else f"{index:05d}.*jsonl"
    try:
        return sorted((directory / JOURNAL_FOLDER).glob(pattern))
    except FileNotFoundError:
        # Another owner has just finished the run and removed the folder.
        return []


def read_journal(path: Path) -> dict[str, Outcome]:
    """The outcomes with a valid checksum, by key; the first of two with the same key."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        # It may just have been removed: another owner has finished the shard.
        return {}
    outcomes: dict[str, Outcome] = {}
    for line in content.split(b"\n"):
        outcome = _decode(line)
        if outcome is not None:
            outcomes.setdefault(outcome.key, outcome)
    return outcomes


def merge_outcomes(
    first: Mapping[str, Outcome], second: Mapping[str, Outcome]
) -> dict[str, Outcome]:
    """The outcomes of both: of two with the same key the first, unless only the second is ok."""
    return {**second, **first, **(list_ok(second) | list_ok(first))}


def list_ok(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Without failures."""
    return {key: outcome for key, outcome in outcomes.items() if outcome.ok}


def _open(path: Path) -> int:
    """A descriptor for appending. Another owner that finishes may just have removed the folder."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    # The umask decides whether a colleague may continue the run.
    mode = 0o666
    for _ in range(_TRIES):
        path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags, mode)
    return os.open(path, flags, mode)


def _repair(path: Path, *, drop_errors: bool) -> dict[str, Outcome]:
    outcomes = read_journal(path)
    if drop_errors:
        outcomes = list_ok(outcomes)
    whole = b"".join(_encode(outcome) for outcome in outcomes.values())
    if path.is_file() and path.read_bytes() != whole:
        with replace_whole(path) as temporary:
            temporary.write_bytes(whole)
    return outcomes


def _encode(outcome: Outcome) -> bytes:
    # Not asdict, which copies every value: this runs for every image.
    filled = {name: value for name, value in vars(outcome).items() if value is not None}
    text = json.dumps(filled, ensure_ascii=False, separators=(",", ":"))
    # Lone surrogates, in messages of libraries, become JSON escapes.
    content = text.encode("utf-8", "backslashreplace")
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _decode(line: bytes) -> Outcome | None:
    checksum, _, content = line.partition(b" ")
    if len(checksum) != 8 or checksum != b"%08x" % zlib.crc32(content):
        return None
    fields: dict[str, Any] = json.loads(content)
    return Outcome(**fields)
