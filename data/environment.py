"""What is to be had here: processor cores, and what an extra of d2s would still need."""

import os
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

DISTRIBUTION = "d2s-vse"


def name_install(extra: str) -> str:
    """The command that brings what an extra of setup.cfg adds: `pip install 'faiss-cpu>=1.11'`.

    It names the packages themselves, not `d2s-vse[extra]`: that holds in a clone and beside a wheel
    alike, and asks no index for a release that it may not have.
    """
    try:
        asked = [Requirement(line) for line in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:  # run from a folder that nothing installed
        return f"the extra {extra} of setup.cfg"
    names = [
        f"'{entry.name}{_format_extras(entry)}{entry.specifier}'"
        for entry in asked
        if entry.marker is not None
        and entry.marker.evaluate({"extra": extra})
        and not entry.marker.evaluate({"extra": ""})
    ]
    return f"pip install {' '.join(names)}"


def _format_extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def count_cores() -> int:
    """Those of its affinity, as containers and schedulers set it; all where there is no such thing.

    macOS has none.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
