"""An unfinished shard: the outcomes so far, and the journal for new ones."""

from dataclasses import replace
from pathlib import Path

from captioner.store.journal import Journal, Outcome


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
    ) -> None:
        """`maker` is recorded with new outcomes."""
        self.index = index
        self._maker = maker
        self.missing = set(missing)
        self._known = known
        self._journal = Journal(path)
        self.missing -= self._journal.outcomes.keys()

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """All outcomes, including earlier successes in a shard that is retried."""
        return self._known | self._journal.outcomes

    def find(self, key: str) -> Outcome | None:
        """The outcome of a key, if it is final."""
        if key in self.missing:
            return None
        return self._journal.outcomes.get(key) or self._known.get(key)

    def add(self, outcome: Outcome) -> None:
        """Journal one finished image."""
        self._journal.append(replace(outcome, made_by=self._maker))
        self.missing.discard(outcome.key)

    def close(self) -> None:
        """Sync the journal and keep it for the next session."""
        self._journal.close()

    def drop_journal(self) -> None:
        """Remove the journal of a committed shard."""
        self._journal.drop()
