"""`d2s`, whose `caption` stands still at a text until it is told to stop, or is killed.

So whoever interrupts it is never too late.
"""

import itertools
import sys
import time

from captioner.run.session import _Session
from captioner.store.journal import Outcome
from pipelines import cli

TEXTS = 5
_count, _texts = _Session._count, itertools.count(1)


def _hold(self: _Session, outcome: Outcome) -> None:
    _count(self, outcome)
    if next(_texts) == TEXTS:
        while not self._stop():
            time.sleep(0.02)


if __name__ == "__main__":
    _Session._count = _hold
    sys.exit(cli.run(sys.argv[1:]))
