"""Which items a step sees: a pure function of seed and step, so a resumed run needs no state."""

from __future__ import annotations

import numpy as np

from data.errors import UserError


def check_items(items: int, batch_size: int) -> None:
    """UserError if the items do not fill one batch."""
    if items < batch_size:
        raise UserError(
            f"{items} training items do not fill one batch of {batch_size}: "
            "lower optim.batch_size or add data"
        )


class StepSampler:
    """Reshuffles the items each epoch and cuts the order into global batches.

    Items that do not fill a batch wait for the next epoch's order. A process takes its share of
    each global batch, so that the same batch is seen whatever the number of processes.

    With `bucket`, that many batches in a row are sorted by length together before they are cut, and
    the batches of an epoch are shuffled after: little padding is computed, and an item still comes
    once an epoch at a random moment. Its negatives are then texts of like length.
    """

    def __init__(
        self,
        items: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        lengths: np.ndarray | None = None,
        bucket: int | None = None,
    ) -> None:
        """`lengths` (items,) is what `bucket` sorts by."""
        check_items(items, batch_size)
        if batch_size % world:
            raise UserError(
                f"a global batch of {batch_size} cannot be divided among {world} processes: make "
                "optim.batch_size a multiple of their number"
            )
        self.items = items
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = items // batch_size
        self._lengths = lengths if bucket is not None else None
        self._bucket = bucket or 0
        self._local = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
        self._epoch = -1
        self._order = np.zeros(0, dtype=np.int64)

    def epoch(self, step: int) -> int:
        """The epoch that `step` (counted from 0) belongs to."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> np.ndarray:
        """This process's items of `step`, (batch_size / world,) int64."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = self._arrange(epoch)
            self._epoch = epoch
        start = position * self.batch_size
        return self._order[start : start + self.batch_size][self._local]

    def _arrange(self, epoch: int) -> np.ndarray:
        """The items of an epoch in the order in which they come, (items,)."""
        draw = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
        order = draw.permutation(self.items)
        if self._lengths is None:
            return order
        order = order[: self.steps_per_epoch * self.batch_size]
        pool = self._bucket * self.batch_size
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            order[start : start + pool] = part[np.argsort(self._lengths[part], kind="stable")]
        batches = draw.permutation(order.reshape(-1, self.batch_size))
        # Within a batch too, so that no process gets the long half of every batch.
        return draw.permuted(batches, axis=1).reshape(-1)
