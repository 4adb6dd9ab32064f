"""What the stand-in holds: repositories with their commits, branches, tags and files."""

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

MAIN = "main"
# Git's own file, which a new repository has.
ATTRIBUTES = ".gitattributes"
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


@dataclass(frozen=True)
class User:
    """Who may write: under the own name, and under those of the organisations."""

    name: str
    organisations: tuple[str, ...] = ()
    writes: bool = True

    def owns(self, name: str) -> bool:
        """Whether a repository of this name, OWNER/NAME, is this user's to change."""
        return self.writes and name.partition("/")[0] in (self.name, *self.organisations)


@dataclass
class Repository:
    """One repository; `refs` are its branches and tags."""

    kind: str
    name: str
    private: bool = False
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
            files[path] = Blob(content, is_large(path, len(content)))
        about = "".join(f"{path}\0{blob.oid}\n" for path, blob in sorted(files.items()))
        sha = hashlib.sha1(f"{parent}\0{title}\0{about}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, files)
        self.refs[branch] = sha
        return self.commits[sha]

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, of a tag, or of its own name."""
        return self.commits.get(self.refs.get(revision, revision))


class Hub:
    """All repositories and users. Routes change it under `lock`, one request at a time.

    `users` are known by their token. `large` are the contents of large files that were uploaded,
    committed or not; `received` counts how often each was, by its SHA-256. An upload above
    `part_bytes` comes in parts.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.users: dict[str, User] = {}
        self.large: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.received: Counter[str] = Counter()
        self.part_bytes = 100_000_000
        self.lock = threading.RLock()

    def create(
        self, name: str, files: Mapping[str, bytes], *, kind: str = "dataset", private: bool = False
    ) -> Repository:
        """A repository with these files on its branch `main`."""
        repository = Repository(kind, name, private)
        repository.commit(files, title="files")
        self.repositories[kind, name] = repository
        return repository

    def find(self, kind: str, name: str) -> Repository | None:
        """The repository, if there is one."""
        return self.repositories.get((kind, name))

    def read(self, kind: str, name: str) -> dict[str, bytes]:
        """The files on a repository's branch `main`, git's own left out."""
        repository = self.repositories[kind, name]
        files = repository.commits[repository.refs[MAIN]].files
        return {path: blob.content for path, blob in files.items() if path != ATTRIBUTES}

    def find_large(self, sha256: str) -> Blob | None:
        """The large file of this content: uploaded, or in whichever repository."""
        if sha256 in self.large:
            return Blob(self.large[sha256], large=True)
        blobs = (
            blob
            for repository in self.repositories.values()
            for commit in repository.commits.values()
            for blob in commit.files.values()
        )
        return next((blob for blob in blobs if blob.large and blob.sha256 == sha256), None)


def is_large(path: str, size: int) -> bool:
    """Whether the Hub keeps such a file outside git."""
    # An empty file has no place there.
    suffix = PurePosixPath(path).suffix.lower()
    return size > 0 and (suffix in _LARGE_SUFFIXES or size > _LARGE_BYTES)
