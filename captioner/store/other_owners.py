"""What the other owners of a shared folder are working on, and whether they are alive.

A lease only shows that it was renewed within two minutes, so an owner that has just died looks
alive. If all others left, its shards would be abandoned. Therefore an owner without other work
stays until it has seen each lease being renewed or expire.
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
        free: unfinished shards without an owner, or whose owner has died.
        elsewhere: number of shards in progress elsewhere, by living owner.
    """

    free: tuple[int, ...] = ()
    elsewhere: dict[str, int] = field(default_factory=dict)


def wait_for_owners(
    store: RunStore, *, stop: Callable[[], bool], on_event: Callable[[str], None]
) -> Remaining:
    """Wait until a shard becomes free, or every owner of the rest has shown that it is alive.

    This takes at most the lifetime of a lease; if a stop is requested, returns what is known by
    then.
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
