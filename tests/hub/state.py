"""What the stand-in holds: repositories with their commits, branches, tags and files."""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

MAIN = "main"
# Stored as large files whatever their size, as the Hub's own .gitattributes has it.
_LARGE_SUFFIXES = {".parquet", ".zip", ".tar", ".png", ".jpg", ".safetensors", ".bin"}
_LARGE_BYTES = 10_000_000


@dataclass(frozen=True)
class Blob:
    """The content of a file; `large` ones are known by their SHA-256 and served from elsewhere."""

    content: bytes
    large: bool

    @cached_property
    def oid(self) -> str:
        """Git's name of the content, or of the pointer that stands for it."""
        content = self.pointer if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git holds of a large file."""
        about = f"oid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return b"version https://git-lfs.github.com/spec/v1\n" + about.encode()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass(frozen=True)
class Commit:
    """The files of a repository at one time."""

    sha: str
    title: str
    files: Mapping[str, Blob]


@dataclass
class Repository:
    """One repository; `refs` are its branches and tags."""

    kind: str
    name: str
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit({}, title="initial commit")

    def commit(
        self,
        added: Mapping[str, bytes],
        *,
        deleted: frozenset[str] = frozenset(),
        title: str = "more",
        branch: str = MAIN,
    ) -> Commit:
        """Make a commit of `added` over what the branch has, and move the branch to it."""
        parent = self.refs.get(branch)
        files = dict(self.commits[parent].files) if parent is not None else {}
        files = {path: blob for path, blob in files.items() if path not in deleted}
        for path, content in added.items():
            suffix = PurePosixPath(path).suffix.lower()
            files[path] = Blob(content, suffix in _LARGE_SUFFIXES or len(content) > _LARGE_BYTES)
        about = "".join(f"{path}\0{blob.oid}\n" for path, blob in sorted(files.items()))
        sha = hashlib.sha1(f"{parent}\0{title}\0{about}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, files)
        self.refs[branch] = sha
        return self.commits[sha]

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, of a tag, or of its own name."""
        return self.commits.get(self.refs.get(revision, revision))


class Hub:
    """All repositories. Routes change it under `lock`, one request at a time."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lock = threading.RLock()

    def create(self, name: str, files: Mapping[str, bytes], *, kind: str = "dataset") -> Repository:
        """A repository with these files on its branch `main`."""
        repository = Repository(kind, name)
        repository.commit(files, title="files")
        self.repositories[kind, name] = repository
        return repository

    def find(self, kind: str, name: str) -> Repository | None:
        """The repository, if there is one."""
        return self.repositories.get((kind, name))

    def find_large(self, sha256: str) -> Blob | None:
        """The large file of this content, in whichever repository."""
        blobs = (
            blob
            for repository in self.repositories.values()
            for commit in repository.commits.values()
            for blob in commit.files.values()
        )
        return next((blob for blob in blobs if blob.large and blob.sha256 == sha256), None)
