"""Where a run is executed: in this process, as one of several jobs, or on a cluster."""

from dataclasses import dataclass
from typing import Literal

from data.errors import UsageError
from data.settings.building import refuse_below

# So that jobs that finish early find more work.
_SHARDS_A_JOB = 4


@dataclass(frozen=True)
class Placement:
    """One process by default.

    Attributes:
        rank: the number of this job, from 0, among several that share an output folder.
        world_size: the number of such jobs.
        cluster: `ray` starts ranks on the machines of a Ray cluster.
        cluster_engines: the number of ranks; by default one per GPU.
        gpus_per_engine: by default 1, or 0 without GPUs.
    """

    rank: int = 0
    world_size: int = 1
    cluster: Literal["ray"] | None = None
    cluster_engines: int | None = None
    gpus_per_engine: float | None = None

    def __post_init__(self) -> None:
        refuse_below(1, self, "cluster_engines")
        refuse_below(0, self, "gpus_per_engine")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"--rank must be from 0 to {self.world_size - 1}, not {self.rank}")
        if self.cluster is not None and self.world_size > 1:
            raise UsageError("--cluster starts the ranks itself: omit --world-size")
        if self.cluster is None and (self.cluster_engines or self.gpus_per_engine is not None):
            raise UsageError("--cluster-engines and --gpus-per-engine require --cluster")

    @property
    def shared(self) -> bool:
        """Whether several processes write into the output folder."""
        return self.world_size > 1 or self.cluster is not None

    @property
    def owner(self) -> str:
        """The owner name for leases.

        It depends on the rank, so that a requeued job can continue its own shards at once; a
        process of the same rank that is still running elsewhere wastes work but does no harm.
        """
        return f"rank {self.rank} of {self.world_size}"


def describe_idle(jobs: int, *, shards: int, shard_size: int, images: int) -> str | None:
    """A warning if this number of shards leaves some jobs idle."""
    if not 0 < shards < jobs:
        return None
    count = "1 shard" if shards == 1 else f"{shards:,} shards"
    return (
        f"warning: there are {jobs:,} jobs and only {count} of --shard-size {shard_size}: "
        f"{jobs - shards:,} of the jobs will have nothing to do (a run that is begun with "
        f"--shard-size {max(1, images // (_SHARDS_A_JOB * jobs))} has enough for all)"
    )
