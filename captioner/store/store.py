"""The folder of a run: finished shards, and the state of the others."""

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from captioner.store.journal import (
    JOURNAL_FOLDER,
    Outcome,
    list_journals,
    list_ok,
    merge_outcomes,
    read_journal,
)
from captioner.store.leases import Leases, OtherLease
from captioner.store.makers import (
    Versions,
    list_recorded,
    name_maker,
    read_makers,
    state_makers,
)
from captioner.store.open_shard import OpenShard
from captioner.store.plan import Plan
from captioner.store.row_form import RowForm
from captioner.store.rows import build_table, read_outcomes
from data.dense.receipts import (
    RECEIPTS_NAME,
    Receipt,
    append_receipt,
    read_receipts,
    rewrite_receipts,
)
from data.dense.run import PLAN_NAME, RUN_NAME, read_run
from data.dense.shards import find_shard_problem, make_receipt, write_shard
from data.errors import UserError
from data.files.hashes import hash_file
from data.files.locks import hold_lock
from data.sources import ImageRecord

COMMIT_LOCK_NAME = ".commit.lock"
LEASES_FOLDER = "leases"
_PLAIN = RowForm()
_name_lease = "{:05d}".format
_CHANGED = "differs from its receipt, rewritten now: a session was killed, or the file was edited"


class RunStore:
    """The files of one run. Use it within `hold_folder`.

    With `leases`, the folder is shared: others can write shards of the same run at the same time.
    Each owner then has its own journals, and the first to finish a shard commits it.
    """

    def __init__(
        self,
        directory: Path,
        plan: Plan,
        *,
        run_id: str,
        engine: str,
        run_seed: int | None,
        metadata: Mapping[str, str],
        leases: Leases | None = None,
        form: RowForm = _PLAIN,
    ) -> None:
        self.form = form
        self.directory = directory
        self.plan = plan
        self._run_id = run_id
        self._engine = engine
        self._run_seed = run_seed
        self._metadata = dict(metadata)
        self._leases = leases
        versions = json.loads(metadata["d2s.run"])["versions"]
        self.maker = name_maker(versions)
        self._versions: dict[str, Versions] = {self.maker: versions}
        # Two processes may use the same owner name, but no two may write to the same journal.
        self._journal_suffix = "" if leases is None else f".{uuid.uuid4().hex[:12]}"
        self.receipts: dict[int, Receipt] = {}
        self.changed: list[str] = []
        self._begun: dict[int, tuple[int, int]] = {}

    def check_shards(self) -> None:
        """Find the finished shards; those without a matching receipt are verified, then get one.

        `changed` has a line for the user about each that had another one.

        Raises:
            UserError: a shard is damaged or belongs to another run.
        """
        known = read_receipts(self.directory)
        self.receipts = {}
        for index in range(self.plan.shards):
            path = self.locate(index)
            if not path.is_file():
                continue
            receipt = known.get(index)
            if receipt is None or receipt.sha256 != hash_file(path):
                if receipt is not None:
                    self.changed.append(f"{path} {_CHANGED}")
                receipt = self._recover_receipt(index, path)
            self.receipts[index] = receipt
            self._begun.setdefault(index, self._identify(index))
        rewrite_receipts(self.directory, self.receipts.values())

    def list_unfinished(self, *, retry_errors: bool) -> list[int]:
        """Shards with work to do: not written, to be retried, or in progress.

        This can include shards that others finished since `check_shards`; `claim` detects them.
        """
        return [
            index
            for index in range(self.plan.shards)
            if index not in self.receipts
            or (retry_errors and self.receipts[index].errors > 0)
            or list_journals(self.directory, index)
        ]

    def claim(self, index: int, *, retry_errors: bool) -> bool:
        """Try to claim a shard: False if another owner has leased or finished it."""
        if self._leases is None:
            return True
        if not self._leases.take(_name_lease(index)):
            return False
        self._refresh_receipt(index, anew=retry_errors)
        done = index in self.receipts and not (retry_errors and self._has_old_errors(index))
        if done and not list_journals(self.directory, index):
            self._leases.release(_name_lease(index))
            return False
        return True

    @property
    def look_seconds(self) -> float:
        """How often to call `find_left` while waiting."""
        assert self._leases is not None
        return self._leases.look_seconds

    def find_left(self, among: Iterable[int]) -> dict[int, OtherLease | None]:
        """Which of these shards are still unfinished, each with another owner's lease or None."""
        assert self._leases is not None
        left: dict[int, OtherLease | None] = {}
        for index in among:
            self._refresh_receipt(index)
            if index not in self.receipts or list_journals(self.directory, index):
                left[index] = self._leases.read_lease(_name_lease(index))
        return left

    def find_finished(self) -> bool:
        """Whether all shards are written, by us or by others, and none is being rewritten."""
        for index in range(self.plan.shards):
            self._refresh_receipt(index)
        if list_journals(self.directory):
            return False
        return len(self.receipts) == self.plan.shards

    def find_done(self, most: int) -> list[ImageRecord]:
        """Some images of one shard that already have a text, from any session or owner."""
        for index in range(self.plan.shards):
            self._refresh_receipt(index)
            receipt, done = self.receipts.get(index), self._read_journals(index)
            if receipt is not None and receipt.rows > receipt.errors:
                done = self._split(index, retry_errors=False)[0] | done
            named = {outcome.sample_id for outcome in done.values() if outcome.ok}
            if named:
                images = self.plan.select_shard(index)
                return [image for image in images if image.sample_id in named][-most:]
        return []

    def discard(self) -> None:
        """Remove our own run, which has no rows."""
        if self._leases is None and not self.receipts:
            shutil.rmtree(self.directory / JOURNAL_FOLDER, ignore_errors=True)
            for name in (RUN_NAME, PLAN_NAME, RECEIPTS_NAME):
                (self.directory / name).unlink(missing_ok=True)

    def read_finished(self, index: int) -> dict[str, Outcome] | None:
        """The outcomes of a written shard; None if it is not written or is being redone."""
        self._refresh_receipt(index)
        if index not in self.receipts or list_journals(self.directory, index):
            return None
        return self._split(index, retry_errors=False)[0]

    def count_missing(self, index: int, *, retry_errors: bool) -> int:
        """Number of images without a final outcome in an unfinished shard; opens no files."""
        if index in self.receipts and not retry_errors and not list_journals(self.directory, index):
            return 0
        _, missing = self._split(index, retry_errors=retry_errors)
        journaled = self._read_journals(index)
        done = list_ok(journaled) if retry_errors else journaled
        return len(set(missing) - done.keys())

    def open_shard(self, index: int, *, retry_errors: bool) -> OpenShard:
        """Open a shard and continue where it stopped; failures count if they are not retried."""
        known, missing = self._split(index, retry_errors=retry_errors)
        path = self._journal_path(index)
        others = self._read_journals(index, without=path)
        others = list_ok(others) if retry_errors else others
        return OpenShard(
            index,
            missing=[name for name in missing if name not in others],
            known=merge_outcomes(others, known),
            path=path,
            maker=self.maker,
            retry_errors=retry_errors,
        )

    def commit(self, shard: OpenShard) -> None:
        """Write the shard, its receipt, and drop its journal, in this order.

        Raises:
            UserError: the disk is full; the journal is kept.
        """
        assert not shard.missing
        with self.committing():
            before = self.receipts.get(shard.index)
            if self._leases is not None:
                self._refresh_receipt(shard.index)
            if self.receipts.get(shard.index) == before:
                self._write(shard)
        shard.drop_journal()
        for path in list_journals(self.directory, shard.index):
            path.unlink(missing_ok=True)
        if self._leases is not None:
            self._leases.release(_name_lease(shard.index))

    def _write(self, shard: OpenShard) -> None:
        outcomes = shard.outcomes
        table = build_table(
            self.plan.select_shard(shard.index),
            outcomes,
            run_id=self._run_id,
            engine=self._engine,
            run_seed=self._run_seed,
            form=self.form,
        )
        names = [outcomes[key].made_by for key in self._list_keys(shard.index)]
        self._write_shard(shard.index, table, self._state_makers(names))

    def rewrite(self, index: int, table: pa.Table) -> None:
        """Replace a finished shard with the same rows and makers, but other flags.

        Raises:
            UserError: the disk is full; the shard stays as it was.
        """
        before = table.schema.metadata.items()
        self._write_shard(index, table, {key.decode(): value.decode() for key, value in before})

    def _write_shard(self, index: int, table: pa.Table, metadata: Mapping[str, str]) -> None:
        path = self.locate(index)
        write_shard(path, table, metadata=metadata)
        self.receipts[index] = make_receipt(path, index=index)
        append_receipt(self.directory, self.receipts[index])

    def _state_makers(self, names: Sequence[str | None]) -> dict[str, str]:
        if any(name not in self._versions for name in names):
            recorded = list_recorded(read_run(self.directory))
            self._versions |= {name: about["versions"] for name, about in recorded.items()}
            # A journal from before makers were named: run.json has the only maker.
            only = next(iter(recorded), self.maker)
            names = [only if name is None else name for name in names]
        return state_makers(self._metadata, [str(name) for name in names], self._versions)

    def finish(self) -> None:
        """Sort the receipts and remove what only an unfinished run needs."""
        rewrite_receipts(self.directory, self.receipts.values())
        for name in (JOURNAL_FOLDER, LEASES_FOLDER):
            # Another owner may just be writing something there.
            with contextlib.suppress(OSError):
                (self.directory / name).rmdir()

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """One owner at a time.

        If file locks only work within one machine, or not at all, two owners can still only waste
        work: the files that they rename into place have the same content.
        """
        if self._leases is None:
            yield
            return
        with hold_lock(self.directory, COMMIT_LOCK_NAME):
            yield

    def locate(self, index: int) -> Path:
        """The path of a shard."""
        return self.directory / self.plan.name_shard(index)

    def _list_keys(self, index: int) -> list[str]:
        return self.form.list_keys(self.plan.list_ids(index))

    def _split(self, index: int, *, retry_errors: bool) -> tuple[dict[str, Outcome], list[str]]:
        """Split into outcomes from the shard's file, and images that are still missing."""
        if index not in self.receipts:
            return {}, self._list_keys(index)
        table = pq.read_table(self.locate(index), partitioning=None)
        known = read_outcomes(table)
        for versions, _ in read_makers(table.schema.metadata, len(known)):
            self._versions[name_maker(versions)] = versions
        failed = [key for key, outcome in known.items() if not outcome.ok]
        return known, failed if retry_errors else []

    def _recover_receipt(self, index: int, path: Path) -> Receipt:
        ids, run_id = self.form.repeat(self.plan.list_ids(index)), {"d2s.run_id": self._run_id}
        schema = self.form.schema
        problem = find_shard_problem(path, sample_ids=ids, metadata=run_id, schema=schema)
        if problem:
            raise UserError(
                f"{path} is not usable: {problem}; delete it and run the same command again to "
                "rewrite it"
            )
        return make_receipt(path, index=index)

    def _refresh_receipt(self, index: int, *, anew: bool = False) -> None:
        """Check whether another owner has finished a shard, or redone it (`anew`).

        That owner's receipt may still be missing.
        """
        if (anew or index not in self.receipts) and self.locate(index).is_file():
            self.receipts[index] = make_receipt(self.locate(index), index=index)

    def _has_old_errors(self, index: int) -> bool:
        """Whether a shard has errors of an earlier session, which nobody has retried since.

        A retry that fails again writes the same bytes, but it writes a new file.
        """
        return self.receipts[index].errors > 0 and self._begun.get(index) == self._identify(index)

    def _identify(self, index: int) -> tuple[int, int]:
        """Different for each file that was put in a shard's place."""
        about = self.locate(index).stat()
        return about.st_ino, about.st_mtime_ns

    def _journal_path(self, index: int) -> Path:
        name = f"{index:05d}{self._journal_suffix}.jsonl"
        return self.directory / JOURNAL_FOLDER / name

    def _read_journals(self, index: int, *, without: Path | None = None) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for path in list_journals(self.directory, index):
            if path != without:
                outcomes = merge_outcomes(outcomes, read_journal(path))
        return outcomes
