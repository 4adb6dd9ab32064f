"""Writing the outcomes of one run: to the journals of open shards, and full shards to disk."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from captioner.settings.prepare import PreparedRun
from captioner.store.journal import Outcome, make_key
from captioner.store.leases import Leases
from captioner.store.row_form import RowForm
from captioner.store.store import LEASES_FOLDER, OpenShard, RunStore
from data.errors import UserError

# This many engine failures before the first text are not the images' fault.
_HOPELESS = 16


@dataclass(frozen=True)
class Place:
    """The shard of a run to which an outcome belongs. `sample` is the number of the sample."""

    writer: ShardWriter
    index: int
    sample: int | None


class ShardWriter:
    """The shards of one run that are being filled."""

    def __init__(
        self,
        prepared: PreparedRun,
        store: RunStore,
        *,
        on_done: Callable[[Outcome], None],
    ) -> None:
        self.prepared = prepared
        self.store = store
        self.policy = prepared.config.text.policy
        self._retry_errors = prepared.config.output.retry_errors
        self._on_done = on_done
        self._open: dict[int, OpenShard] = {}
        # Failures and empty texts, held back until the engine has shown that it works at all.
        self._deferred: list[tuple[int, Outcome]] = []
        self._engine_works = prepared.choice.checked
        # Outcomes that will not come in this session, by shard.
        self._left: Counter[int] = Counter()

    @property
    def form(self) -> RowForm:
        """The form of its rows."""
        return self.store.form

    @property
    def open_shards(self) -> dict[int, OpenShard]:
        """Shards that are neither committed nor closed, by number."""
        return self._open

    def open(self, index: int) -> OpenShard | None:
        """Open a shard; None if another owner has it."""
        if not self.store.claim(index, retry_errors=self._retry_errors):
            return None
        shard = self.store.open_shard(index, retry_errors=self._retry_errors)
        self._open[index] = shard
        del self._left[index]
        if not shard.missing:
            self._commit(shard)
        return shard

    def list_places(self, index: int, sample_id: str) -> list[Place]:
        """The places in which an image has no outcome yet."""
        shard = self._open.get(index)
        if shard is None:
            return []
        numbers = self.form.numbers
        return [Place(self, index, n) for n in numbers if make_key(sample_id, n) in shard.missing]

    def close(self) -> None:
        """Leave the open shards for the next session."""
        for shard in self._open.values():
            shard.close()
        self._open.clear()

    def note_text(self) -> list[Outcome]:
        """The engine works; returns the outcomes that were held back, which are now finished."""
        self._engine_works = True
        return self.finish_deferred()

    def defer(self, index: int, outcome: Outcome) -> bool:
        """Finish it, or hold it back before the first text: the engine may not work at all.

        Returns whether it is finished.
        """
        if self._engine_works:
            self.finish(index, outcome)
        else:
            self._deferred.append((index, outcome))
        return self._engine_works

    @property
    def doubts(self) -> bool:
        """Whether too many were held back to be the images' fault."""
        return len(self._deferred) >= _HOPELESS

    def explain_hopeless(self, error: str) -> UserError:
        """The message if the engine does not work; `error` is that of the last image."""
        what = f" for the text {self.form.name!r}" if self.form.name else ""
        return UserError(
            f"the engine failed on each of the first {len(self._deferred)} images{what}, "
            f"the last time with: {error}"
        )

    def finish_deferred(self) -> list[Outcome]:
        """The held-back failures are the images' own; finish and return them."""
        deferred, self._deferred = self._deferred, []
        for index, outcome in deferred:
            self.finish(index, outcome)
        return [outcome for _, outcome in deferred]

    def finish(self, index: int, outcome: Outcome) -> None:
        """Journal an outcome; commit its shard if this was the last one."""
        shard = self._open[index]
        shard.add(outcome)
        self._on_done(outcome)
        if not shard.missing:
            self._commit(shard)
        else:
            self._close_left(shard)

    def leave(self, index: int) -> None:
        """An outcome will not come in this session."""
        self._left[index] += 1
        self._close_left(self._open[index])

    def _close_left(self, shard: OpenShard) -> None:
        """Close a shard that will get no more outcomes, to limit the number of open files."""
        if self._left[shard.index] == len(shard.missing):
            shard.close()
            del self._open[shard.index]

    def _commit(self, shard: OpenShard) -> None:
        self.store.commit(shard)
        del self._open[shard.index]


@contextlib.contextmanager
def open_store(prepared: PreparedRun) -> Iterator[RunStore]:
    """Open the files of a run; with leases if the folder is shared."""
    with contextlib.ExitStack() as stack:
        leases = None
        if prepared.shared:
            folder = prepared.directory / LEASES_FOLDER
            leases = stack.enter_context(Leases(folder, owner=prepared.config.placement.owner))
        yield RunStore(
            prepared.directory,
            prepared.plan,
            run_id=prepared.run_id,
            engine=prepared.settings["engine"],
            run_seed=prepared.settings["sampling"]["seed"],
            metadata=prepared.metadata,
            leases=leases,
            form=RowForm.of(prepared.settings),
        )
