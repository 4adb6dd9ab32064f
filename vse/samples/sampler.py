"""The items of each step: a pure function of seed and step, so a resumed run needs no state."""

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

    Items that do not fill a batch wait for the next epoch's order. Each process takes its share of
    the global batch, which does not depend on the number of processes.

    With `bucket`, the items of that many consecutive batches are sorted by length before they are
    cut, and then the batches of an epoch are shuffled. This reduces padding; each item still comes
    once per epoch at a random time, but its negatives have similar lengths.
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
        """`bucket` sorts by `lengths` (items,)."""
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
        """The items of an epoch in order, (items,)."""
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
        # Also shuffle within a batch, so that no process always gets the longer half.
        return draw.permuted(batches, axis=1).reshape(-1)
