"""Options of a run that do not go together: refused, since one of them would be ignored."""

from collections.abc import Sequence
from typing import Any

from data.errors import UsageError


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
