"""What the other owners of a shared folder still have in work, and whether they live.

A lease tells no more than that it was renewed within two minutes. By that an owner that died a
moment ago looks alive, and if all others went by it, its shards would be left to nobody. So whoever
is done with all else stays until each lease was renewed before its eyes, or has run out.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from captioner.store.leases import OtherLease
from captioner.store.store import RunStore


@dataclass(frozen=True)
class Remaining:
    """What is left of a run.

    Attributes:
        free: unfinished shards that nobody has, or whose owner has died.
        elsewhere: how many are in work elsewhere, by the name of a living owner.
    """

    free: tuple[int, ...] = ()
    elsewhere: dict[str, int] = field(default_factory=dict)


def wait_for_owners(
    store: RunStore, *, stop: Callable[[], bool], on_event: Callable[[str], None]
) -> Remaining:
    """Look until something can be taken, or every owner of what is left has shown that it lives.

    It takes as long as a lease lasts at most; with a stop asked for, what is known by then is told.
    """
    seen: dict[int, OtherLease] = {}
    left: dict[int, OtherLease | None] = dict.fromkeys(store.list_unfinished(retry_errors=False))
    told = False
    while True:
        left = store.find_left(left)
        free = tuple(index for index, lease in left.items() if lease is None)
        held = {index: lease for index, lease in left.items() if lease is not None}
        renewed = [lease for index, lease in held.items() if seen.setdefault(index, lease) != lease]
        if free or len(renewed) == len(held) or stop():
            return Remaining(free, dict(Counter(lease.owner for lease in renewed)))
        if not told:
            told = True
            owners = ", ".join(sorted({lease.owner for lease in held.values()}))
            on_event(
                f"{len(held)} shards are left to {owners}: checking whether they are being worked "
                "on"
            )
        time.sleep(store.look_seconds)
