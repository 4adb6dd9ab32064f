"""The tree as a folder (`--to-dir`), to look at or to upload by other means."""

from __future__ import annotations

from pathlib import Path

from data.errors import UserError
from data.files.atomic import replace_whole
from pipelines.hub.tree import Tree


def write_tree(tree: Tree, folder: Path) -> None:
    """Write every file of the tree; an earlier tree of the same files is written over.

    Raises:
        UserError: the folder is that of the run or the model itself, has files that are not of
            this tree, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: --to-dir takes a folder")
    here = folder.resolve()
    for entry in tree.entries:
        if isinstance(entry.source, Path) and entry.source.resolve().is_relative_to(here):
            raise UserError(
                f"{folder} holds what is to be published ({entry.source.name!r}), which would be "
                "written over: give --to-dir another folder"
            )
    wanted = {entry.path for entry in tree.entries}
    found = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    for path in found:
        if path.relative_to(folder).as_posix() not in wanted:
            raise UserError(
                f"{folder} has files that are not of this tree ({path.name!r}): "
                "--to-dir takes an empty folder or a new one"
            )
    for entry in tree.entries:
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_whole(path) as temporary, temporary.open("wb") as file:
            file.writelines(entry.read_blocks())
