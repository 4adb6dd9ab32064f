"""Comparing the contents of a Hub repository with a tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from huggingface_hub import HfApi, RepoFile

from pipelines.hub.tree import TreeFile

# Git's own file, which every new repository has.
_NOT_OURS_TO_COUNT = frozenset({".gitattributes"})


@dataclass(frozen=True)
class Comparison:
    """Paths and entries: equal, changed or missing; and other files in the repository."""

    equal: tuple[TreeFile, ...]
    changed: tuple[TreeFile, ...]
    missing: tuple[TreeFile, ...]
    besides: tuple[str, ...]


def read_files(api: HfApi, repo: str, kind: str, revision: str) -> dict[str, RepoFile]:
    """The files of a revision, by path."""
    found = api.list_repo_tree(repo, recursive=True, revision=revision, repo_type=kind)
    return {file.path: file for file in found if isinstance(file, RepoFile)}


def compare_files(entries: Iterable[TreeFile], files: Mapping[str, RepoFile]) -> Comparison:
    """Compare `entries` with the repository, by size and hash."""
    equal, changed, missing, wanted = [], [], [], set(_NOT_OURS_TO_COUNT)
    for entry in entries:
        wanted.add(entry.path)
        file = files.get(entry.path)
        if file is None:
            missing.append(entry)
        elif is_same(entry, file):
            equal.append(entry)
        else:
            changed.append(entry)
    besides = tuple(path for path in sorted(files) if path not in wanted)
    return Comparison(tuple(equal), tuple(changed), tuple(missing), besides)


def is_same(entry: TreeFile, file: RepoFile) -> bool:
    """Whether the Hub's file has this content: large files by SHA-256, others by git hash."""
    if file.size != entry.size:
        return False
    if file.lfs is not None:
        return file.lfs.sha256 == entry.sha256
    return file.blob_id == entry.hash_for_git()
