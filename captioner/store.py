"""A run's folder: which shards are finished, what is known of the others, and the lock."""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from captioner.journal import Journal, Record, read_journal
from captioner.plan import Plan
from captioner.rows import build_table, read_records
from data.errors import UserError
from data.receipts import Receipt, append_receipt, read_receipts, rewrite_receipts
from data.shards import find_shard_problem, hash_file, make_receipt, name_shard, write_shard

_LOCK_NAME = ".lock"
_JOURNAL_FOLDER = "journal"


class OpenShard:
    """A shard that is being filled: `records` grows until every image of it has one."""

    def __init__(self, index: int, *, missing: list[str], known: dict[str, Record], path: Path):
        self.index = index
        self.missing = set(missing)
        self._known = known
        self._journal = Journal(path)
        self.missing -= self._journal.records.keys()

    @property
    def records(self) -> dict[str, Record]:
        """Everything known: of a shard that is retried, what went well before, too."""
        return self._known | self._journal.records

    def add(self, record: Record) -> None:
        """Journal one finished image."""
        self._journal.append(record)
        self.missing.discard(record.sample_id)

    def close(self) -> None:
        """Sync the journal and leave it for the next run."""
        self._journal.close()

    def drop_journal(self) -> None:
        """The shard is committed."""
        self._journal.drop()


class RunStore:
    """The files of one run. Use it under `lock_folder`."""

    def __init__(
        self,
        directory: Path,
        plan: Plan,
        *,
        run_id: str,
        engine: str,
        run_seed: int,
        metadata: Mapping[str, str],
    ) -> None:
        self.directory = directory
        self.plan = plan
        self._run_id = run_id
        self._engine = engine
        self._run_seed = run_seed
        self._metadata = dict(metadata)
        self.receipts: dict[int, Receipt] = {}

    def check_shards(self) -> None:
        """Find the finished shards; those without a fitting receipt are read whole, then get one.

        Raises:
            UserError: a shard is damaged or not of this run.
        """
        known = read_receipts(self.directory)
        self.receipts = {}
        for index in range(self.plan.shards):
            path = self._path(index)
            if not path.is_file():
                continue
            receipt = known.get(index)
            if receipt is None or receipt.sha256 != hash_file(path):
                receipt = self._recover_receipt(index, path)
            self.receipts[index] = receipt
        rewrite_receipts(self.directory, self.receipts.values())

    def list_unfinished(self, *, retry_errors: bool) -> list[int]:
        """Shards with something to do: not written, or to be retried, or in the midst of it."""
        return [
            index
            for index in range(self.plan.shards)
            if index not in self.receipts
            or (retry_errors and self.receipts[index].errors > 0)
            or self._journal_path(index).is_file()
        ]

    def count_missing(self, index: int, *, retry_errors: bool) -> int:
        """How many images of an unfinished shard have no final record yet; opens nothing."""
        known, missing = self._split(index, retry_errors=retry_errors)
        journaled = read_journal(self._journal_path(index))
        return len(set(missing) - journaled.keys())

    def open_shard(self, index: int, *, retry_errors: bool) -> OpenShard:
        """Take up a shard where it was left."""
        self._journal_path(index).parent.mkdir(exist_ok=True)
        known, missing = self._split(index, retry_errors=retry_errors)
        path = self._journal_path(index)
        return OpenShard(index, missing=missing, known=known, path=path)

    def commit(self, shard: OpenShard) -> None:
        """Write the shard, its receipt, and drop its journal, in this order.

        Raises:
            UserError: the disk is full; the journal is kept.
        """
        assert not shard.missing
        table = build_table(
            self.plan.select_shard(shard.index),
            shard.records,
            run_id=self._run_id,
            engine=self._engine,
            run_seed=self._run_seed,
        )
        path = self._path(shard.index)
        write_shard(path, table, metadata=self._metadata)
        receipt = make_receipt(path, index=shard.index)
        append_receipt(self.directory, receipt)
        self.receipts[shard.index] = receipt
        shard.drop_journal()

    def finish(self) -> None:
        """Order the receipts and remove what only an unfinished run needs."""
        rewrite_receipts(self.directory, self.receipts.values())
        folder = self.directory / _JOURNAL_FOLDER
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _split(self, index: int, *, retry_errors: bool) -> tuple[dict[str, Record], list[str]]:
        """What the shard's file knows, and whose images are wanted."""
        if index not in self.receipts:
            return {}, [image.sample_id for image in self.plan.select_shard(index)]
        known = read_records(pq.read_table(self._path(index), partitioning=None))
        failed = [name for name, record in known.items() if not record.ok]
        return known, failed if retry_errors else []

    def _recover_receipt(self, index: int, path: Path) -> Receipt:
        ids = [image.sample_id for image in self.plan.select_shard(index)]
        problem = find_shard_problem(path, sample_ids=ids, metadata={"d2s.run_id": self._run_id})
        if problem:
            raise UserError(
                f"{path} is not usable: {problem}; delete it and run the same command again, "
                "which writes it anew"
            )
        return make_receipt(path, index=index)

    def _path(self, index: int) -> Path:
        return self.directory / name_shard(index, self.plan.shards)

    def _journal_path(self, index: int) -> Path:
        return self.directory / _JOURNAL_FOLDER / f"{index:05d}.jsonl"


def lock_folder(directory: Path) -> int:
    """Keep other runs out of the folder until the returned descriptor is closed or we die.

    Raises:
        UserError: another run is at work there.
    """
    descriptor = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"another run is writing into {directory}: wait for it, stop it, or give another --out"
        ) from error
    return descriptor
