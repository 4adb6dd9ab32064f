"""Files that other tools leave next to the user's own: thumbnails, indexes, resource forks."""

# macOS, Windows, Synology, QNAP; in lower case.
_NAMES = frozenset(
    {"__macosx", "@eadir", "#recycle", "@recycle", "@recently-snapshot", "$recycle.bin"}
    | {"system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini"}
)


def is_companion(path: str) -> bool:
    """Whether a path component is hidden (`._a.jpg`, `.DS_Store`) or such a file or folder."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return any(part.startswith(".") or part.lower() in _NAMES for part in parts)
