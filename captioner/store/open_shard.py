"""A shard on its way: what is known of its images, and the journal that more goes into."""

from dataclasses import replace
from pathlib import Path

from captioner.store.journal import Journal, Outcome


class OpenShard:
    """A shard that is being filled: `outcomes` grows until every image of it has one."""

    def __init__(
        self,
        index: int,
        *,
        missing: list[str],
        known: dict[str, Outcome],
        path: Path,
        maker: str,
    ) -> None:
        """`maker` makes what is added."""
        self.index = index
        self._maker = maker
        self.missing = set(missing)
        self._known = known
        self._journal = Journal(path)
        self.missing -= self._journal.outcomes.keys()

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """Everything known: of a shard that is retried, what went well before, too."""
        return self._known | self._journal.outcomes

    def find(self, key: str) -> Outcome | None:
        """The outcome of a key, if it is final by now."""
        if key in self.missing:
            return None
        return self._journal.outcomes.get(key) or self._known.get(key)

    def add(self, outcome: Outcome) -> None:
        """Journal one finished image."""
        self._journal.append(replace(outcome, made_by=self._maker))
        self.missing.discard(outcome.key)

    def close(self) -> None:
        """Sync the journal and leave it for the next run."""
        self._journal.close()

    def drop_journal(self) -> None:
        """The shard is committed."""
        self._journal.drop()
