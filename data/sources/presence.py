"""Whether a source as a whole is still where it was."""

import os

from data.sources.record import Source


def find_loss(source: Source) -> str | None:
    """Which part of a source is gone: its folder, or one of its archives or tables; else None.

    An image that is missing by itself is none.
    """
    files = source.options.get("files", [])
    lost = next((name for name in files if not os.path.isfile(name)), None)
    if lost is not None:
        return str(lost)
    # A data set's name may be one of the Hub.
    folder = source.options["name"] if source.kind == "dataset" else source.root
    is_local = bool(folder) and os.path.isabs(folder)
    return folder if is_local and not os.path.isdir(folder) else None
