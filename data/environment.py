"""What is available here: shipped models, processor cores, packages of an extra, servers."""

import os
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

DISTRIBUTION = "d2s-vse"
# The model that ships with the package; it describes the generated world of the demo.
SHIPPED_MODELS = {
    "llava-scenes": Path(__file__).resolve().parents[1] / "captioner" / "models" / "llava-scenes"
}


def name_install(extra: str) -> str:
    """The command that installs an extra of setup.cfg: `pip install 'faiss-cpu>=1.11'`.

    It names the packages themselves, not `d2s-vse[extra]`: this works in a clone and with a wheel,
    and does not need a release on the index.
    """
    try:
        asked = [Requirement(line) for line in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:  # run from a folder without installation
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


def ask_server(url: str, *, timeout: float) -> str:
    """One HEAD request: returns why `url` does not answer, or "". Any HTTP status is an answer.

    Args:
        timeout: seconds.
    """
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return str(reason) or type(error).__name__


def count_cores() -> int:
    """Cores this process may use, as set by containers and schedulers; all cores on macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
