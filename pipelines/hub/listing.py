"""The tree as a list (`--dry-run`)."""

from __future__ import annotations

from typing import Any

from pipelines.hub.tree import Tree


def describe_tree(tree: Tree) -> dict[str, Any]:
    """{"files": [{"path", "size", "sha256"}], "bytes"} for JSON, in the order of the upload."""
    files = [{"path": e.path, "size": e.size, "sha256": e.sha256} for e in tree.entries]
    return {"files": files, "bytes": tree.size}


def format_tree(tree: Tree) -> list[str]:
    """A line for each file, in the order of the upload, and one for all."""
    width = max(len(f"{entry.size:,}") for entry in tree.entries)
    lines = [f"{e.size:>{width},} B  {e.sha256[:12]}  {e.path}" for e in tree.entries]
    return [*lines, f"{len(tree.entries):,} files, {tree.size:,} B"]
