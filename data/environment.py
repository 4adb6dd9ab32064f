"""What is available here: shipped models, processor cores, packages of an extra, servers.

And what of it must not be shown to others: local folders, and passwords in addresses.
"""

import os
import re
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

from data.escaping import drop_folder

DISTRIBUTION = "d2s-vse"
# The model that ships with the package; it describes the generated world of the demo.
SHIPPED_MODELS = {
    "llava-scenes": Path(__file__).resolve().parents[1] / "captioner" / "models" / "llava-scenes"
}
# hf:, llava:, open_clip:local-dir: and the like, before a name that may be a path.
_PREFIXES = re.compile(r"(?:[A-Za-z][\w-]*:(?!//))*")
# User name and password before the host.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#]*@")
# A signature after the path.
_QUERY = re.compile(r"(?<=\S)\?\S*")


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

    A user name and password in `url` are not sent: urllib would take them for the host.

    Args:
        timeout: seconds.
    """
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    try:
        request = urllib.request.Request(hide_credentials(url), method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        return str(reason) or type(error).__name__


def count_cores() -> int:
    """Cores this process may use, as set by containers and schedulers; all cores on macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hide_credentials(text: str) -> str:
    """Addresses without user name and password, which that of a mirror may contain."""
    return _CREDENTIALS.sub("", text)


def strip_path(text: str, *, relative: bool = False) -> str:
    """Only the last part of a path, also after prefixes such as `hf:`; other names unchanged.

    Addresses lose user name, password and query.

    Args:
        relative: whether a relative path is shortened too. A single slash after a prefix is that
            of a name on the Hub.
    """
    if re.match(r"\w+://", text):
        return _QUERY.sub("", hide_credentials(text))
    name = _PREFIXES.sub("", text, count=1)
    prefix = text[: len(text) - len(name)]
    typed = relative and name.rstrip("/").count("/") > bool(prefix)
    if typed or os.path.isabs(name) or name.startswith(("~", "./", "../")):
        return prefix + drop_folder(os.path.join("/", name))
    # open_clip:ARCH/WEIGHTS, where the weights are a file.
    first, absolute, rest = name.partition("//")
    weights = prefix and absolute and not re.search(r"\s", text)
    return f"{prefix}{first}/{os.path.basename(rest)}" if weights else text
