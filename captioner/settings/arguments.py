"""What `captioner.caption` takes, where a run works, and which options do not go together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Required, TypedDict

from data.errors import UsageError
from data.sources.columns import Columns


@dataclass(frozen=True)
class Placement:
    """One process by default.

    Attributes:
        rank: of several jobs that share one output folder, the number of this one, from 0.
        world_size: how many such jobs there are.
        cluster: `ray` schedules the shards over the workers of a Ray cluster.
        workers: engines of the cluster; by default one per GPU.
        gpus_per_worker: by default 1, or 0 where there is none.
        locked: whether a lock keeps a second run out of the folder (`captioner.store.locks`).
    """

    rank: int = 0
    world_size: int = 1
    cluster: Literal["ray"] | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    locked: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"--rank must be from 0 to {self.world_size - 1}, not {self.rank}")
        if self.cluster is not None and self.world_size > 1:
            raise UsageError("--cluster schedules all shards itself: leave --world-size out")
        if self.cluster is None and (self.workers or self.gpus_per_worker is not None):
            raise UsageError("--cluster-workers and --gpus-per-worker go with --cluster")

    @property
    def shared(self) -> bool:
        """Whether several processes write into the output folder, or may do so unnoticed."""
        return self.world_size > 1 or self.cluster is not None or not self.locked

    @property
    def owner(self) -> str:
        """The name that leases are taken under.

        By the rank, so that a job that is queued again takes up its own shards at once; a process
        of the same rank that still lives elsewhere wastes work and harms nothing. Ray itself gives
        a shard to one worker, so its workers share a name and need not wait for a dead one's.
        """
        return self.cluster or f"rank {self.rank} of {self.world_size}"


class CaptionArguments(TypedDict, total=False):
    """The arguments of `prepare_caption`, for those who hand them on."""

    model: Required[str]
    images: Required[Path | str]
    image_root: Path | None
    split: str | None
    dataset_config: str | None
    streaming: bool
    columns: Columns
    captions: Path | None
    out: Path | None
    shard_size: int
    limit: int | None
    prompt: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    aspect: str | None
    max_image_pixels: int
    revision: str | None
    retry_errors: bool
    retry_flagged: Sequence[str]
    repetition_penalty: float
    trim: bool
    engine: str
    servers: Sequence[str]
    server_window: int | None
    server_patience: float | None
    image_size: int | None
    dtype: str
    kv_cache_dtype: str
    gpu_memory: float | None
    max_model_len: int | None
    engines: int | None
    tensor_parallel_size: int
    decode_workers: int | None
    memory_limit: float | None
    silence: float | None
    placement: Placement


def refuse_unfitting(
    *,
    engine: str,
    servers: Sequence[str],
    clustered: bool,
    of_an_engine: dict[str, Any],
    of_servers: dict[str, Any],
) -> None:
    """Refuse what the engine that was asked for has no use for.

    Args:
        clustered: whether a cluster decides how many engines there are.
        of_an_engine: options of an engine on this machine, as typed, with their values; None or
            False where an option was not given.
        of_servers: the same of servers.

    Raises:
        UsageError: an option was given that would be ignored.
    """
    if (engine == "server") != bool(servers):
        raise UsageError("--engine server and --server URL go together")
    if clustered and of_an_engine.get("--engines"):
        raise UsageError("--engines is for one machine: with --cluster give --cluster-workers")
    for option in _list_given(of_an_engine):
        if servers:
            raise UsageError(f"{option} is the servers' own affair: leave it out with --server")
        if engine == "scripted":
            raise UsageError(f"{option} is for an engine that has a model, and scripted has none")
    for option in _list_given(of_servers):
        if not servers:
            raise UsageError(f"{option} is for --server, and no server is asked here")


def _list_given(options: dict[str, Any]) -> list[str]:
    return [name for name, value in options.items() if value is not None and value is not False]
