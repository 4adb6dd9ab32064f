"""An unfinished shard: the outcomes so far, and the journal for new ones."""

from dataclasses import replace
from pathlib import Path

from captioner.store.journal import Journal, Outcome, merge_outcomes


class OpenShard:
    """A shard that is being filled: `outcomes` grows until every image has one."""

    def __init__(
        self,
        index: int,
        *,
        missing: list[str],
        known: dict[str, Outcome],
        path: Path,
        maker: str,
        retry_errors: bool = False,
    ) -> None:
        """`maker` is recorded with new outcomes; `retry_errors` drops failures in the journal."""
        self.index = index
        self._maker = maker
        self.missing = set(missing)
        self._journal = Journal(path, drop_errors=retry_errors)
        self.missing -= self._journal.outcomes.keys()
        # All of them, including earlier successes in a shard that is retried.
        self.outcomes = merge_outcomes(self._journal.outcomes, known)

    def find(self, key: str) -> Outcome | None:
        """The outcome of a key, if it is final."""
        return None if key in self.missing else self.outcomes.get(key)

    def add(self, outcome: Outcome) -> None:
        """Journal one finished image."""
        made = replace(outcome, made_by=self._maker)
        self._journal.append(made)
        self.outcomes[made.key] = made
        self.missing.discard(outcome.key)

    def close(self) -> None:
        """Sync the journal and keep it for the next session."""
        self._journal.close()

    def drop_journal(self) -> None:
        """Remove the journal of a committed shard."""
        self._journal.drop()
