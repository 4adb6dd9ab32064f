"""`d2s`, whose `caption` stands still at a text until it is told to stop, or is killed.

So whoever interrupts it is never too late.
"""

import sys
import time

from captioner.run.session import _Session
from captioner.store.journal import Outcome
from pipelines import cli

TEXTS = 5
_count = _Session._count


def _hold(self: _Session, outcome: Outcome) -> None:
    _count(self, outcome)
    while self._generated == TEXTS and not self._stop():
        time.sleep(0.02)


if __name__ == "__main__":
    _Session._count = _hold
    sys.exit(cli.run(sys.argv[1:]))
