"""Which items a step sees: a pure function of seed and step, so a resumed run needs no state."""

from __future__ import annotations

import numpy as np

from data.errors import UserError


class StepSampler:
    """Shuffles the items anew each epoch and cuts the order into global batches.

    Items that do not fill a batch wait for the next epoch's order. A process takes its share of
    each global batch, so that the same batch is seen whatever the number of processes.
    """

    def __init__(
        self, items: int, *, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        if items < batch_size:
            raise UserError(
                f"{items} training items do not fill one batch of {batch_size}: "
                "lower --batch-size or add data"
            )
        if batch_size % world:
            raise UserError(
                f"a global batch of {batch_size} cannot be shared by {world} processes: "
                "make --batch-size a multiple of their number"
            )
        self.items = items
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = items // batch_size
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
            sequence = np.random.SeedSequence([self.seed, epoch])
            self._order = np.random.default_rng(sequence).permutation(self.items)
            self._epoch = epoch
        start = position * self.batch_size
        return self._order[start : start + self.batch_size][self._local]
