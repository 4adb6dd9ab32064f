"""The files and the loop of a prepared run, for this process and for a cluster's workers alike."""

import contextlib
from collections.abc import Callable, Iterator

from captioner.engine.protocol import Engine
from captioner.run.shards import ShardRunner
from captioner.settings.prepare import PreparedRun
from captioner.store.journal import Record
from captioner.store.leases import Leases
from captioner.store.store import LEASES_FOLDER, RunStore


@contextlib.contextmanager
def open_store(prepared: PreparedRun) -> Iterator[RunStore]:
    """The files of a run; where others write into the folder too, under leases."""
    with contextlib.ExitStack() as stack:
        leases = None
        if prepared.placement.shared:
            folder = prepared.directory / LEASES_FOLDER
            leases = stack.enter_context(Leases(folder, owner=prepared.placement.owner))
        yield RunStore(
            prepared.directory,
            prepared.plan,
            run_id=prepared.run_id,
            engine=prepared.settings["engine"],
            run_seed=prepared.settings["sampling"]["seed"],
            metadata=prepared.metadata,
            leases=leases,
        )


def make_runner(
    prepared: PreparedRun,
    store: RunStore,
    engine: Engine | None,
    *,
    stop: Callable[[], bool],
    on_done: Callable[[Record], None],
) -> ShardRunner:
    """The loop of a run; see ShardRunner."""
    return ShardRunner(
        store,
        source=prepared.source,
        preprocessing=prepared.choice.preprocessing,
        policy=prepared.policy,
        engine=engine,
        run_seed=prepared.settings["sampling"]["seed"],
        workers=prepared.decode_workers,
        retry_errors=prepared.retry_errors,
        stop=stop,
        on_done=on_done,
    )
