"""Uploading a tree to a repository on the Hub: data first, the README last, then the tag.

Existing files are not sent again, so the same command continues after any failure. Large files go
to the Hub's store before the commit that refers to them; files that arrived there in an interrupted
run are not sent again either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, HfApi, RepoCard, RepoFile
from huggingface_hub.errors import RepositoryNotFoundError

from data.environment import hide_credentials
from data.errors import UserError
from pipelines.hub.errors import explain, forward_warnings
from pipelines.hub.remote import Comparison, compare_files, read_files
from pipelines.hub.retries import retry
from pipelines.hub.tree import Tree, TreeFile

Say = Callable[[str], None]
MAIN = "main"
# Enough for one commit, and not too much to repeat.
_COMMIT_FILES = 50
_MOST_NAMES = 5


@dataclass(frozen=True)
class UploadResult:
    """The state of the repository; `uploaded` are new files, `besides` are other existing ones."""

    repo: str
    kind: str
    url: str
    commit: str
    tag: str
    uploaded: tuple[str, ...]
    unchanged: tuple[str, ...]
    besides: tuple[str, ...]


def upload(
    tree: Tree,
    *,
    repo: str,
    kind: str,
    private: bool | None,
    tag: str | None,
    say: Say,
    overwrite: bool = False,
    sdk: str | None = None,
) -> UploadResult:
    """Upload `tree` to the repository, verify it by size and hash, and tag it.

    Args:
        repo: OWNER/NAME; it is created if it does not exist.
        kind: "dataset", "model" or "space"; a space needs `sdk`.
        private: whether only its owner can see it; None for the Hub's default.
        tag: by default derived from the content, so that equal content has the same tag.
        say: called with progress messages.
        overwrite: replace files with the same path but different content.

    Raises:
        UserError: refused, or the network is down; says what has been uploaded.
    """
    uploading = _Upload(tree, repo=repo, kind=kind, tag=tag or f"d2s-{tree.hash()[:12]}", say=say)
    try:
        with forward_warnings(say):
            return uploading.run(private=private, overwrite=overwrite, sdk=sdk)
    except UserError:
        raise
    except KeyboardInterrupt:
        say(f"interrupted; {uploading.tell_state()}")
        raise
    except Exception as error:
        raise explain(error, repo=repo, state=uploading.tell_state()) from error


class _Upload:
    """The state of an upload."""

    def __init__(self, tree: Tree, *, repo: str, kind: str, tag: str, say: Say) -> None:
        self.tree, self.repo, self.kind, self.tag, self.say = tree, repo, kind, tag, say
        self.api = HfApi()
        self.there = 0
        self.begun = False

    def run(self, *, private: bool | None, overwrite: bool, sdk: str | None) -> UploadResult:
        retry(self.api.whoami, say=self.say)
        found = self._look(private)
        self._check_card()
        before = self._compare(MAIN) if found else compare_files(self.tree.entries, {})
        tagged = found and self._is_tagged()
        # Report what will be replaced, once nothing can refuse it any more.
        self._check_overwriting(before, overwrite=overwrite)
        if not found:
            self._create(private, sdk)
            before = self._compare(MAIN)
        self.there = len(before.equal)
        wanted = {entry.path for entry in (*before.changed, *before.missing)}
        data = [entry for entry in self.tree.data if entry.path in wanted]
        for start in range(0, len(data), _COMMIT_FILES):
            self._commit(data[start : start + _COMMIT_FILES])
        if self.tree.readme.path in wanted:
            self._commit([self.tree.readme])
        commit, after = self._check_all()
        if not tagged:
            self._set_tag(commit)
        return UploadResult(
            repo=self.repo,
            kind=self.kind,
            url=self._locate(),
            commit=commit,
            tag=self.tag,
            uploaded=tuple(entry.path for entry in self.tree.entries if entry.path in wanted),
            unchanged=tuple(entry.path for entry in before.equal),
            besides=after.besides,
        )

    def tell_state(self) -> str:
        """The state of the repository, and how to continue."""
        if not self.begun:
            return "nothing was uploaded"
        files = len(self.tree.entries)
        return (
            f"{self.there:,} of {files:,} files are known to be in "
            f"{self.repo}{'' if self.there == files else ', its README.md not yet'}, the tag is "
            "not set: run the same command again to continue"
        )

    def _look(self, private: bool | None) -> bool:
        """Check that the repository exists and is writable."""
        try:
            retry(
                lambda: self.api.auth_check(self.repo, repo_type=self.kind, write=True),
                say=self.say,
            )
        except RepositoryNotFoundError:
            return False
        about = retry(
            lambda: self.api.repo_info(self.repo, repo_type=self.kind, revision=MAIN), say=self.say
        )
        if private is not None and bool(about.private) != private:
            raise UserError(
                f"{self.repo} is there and is {'private' if about.private else 'public'}: change "
                "that in its settings on the Hub, or omit --private and --public"
            )
        return True

    def _check_card(self) -> None:
        """Let the Hub validate the README's head before anything is sent.

        Raises:
            UserError: it is refused.
        """
        assert isinstance(self.tree.readme.source, bytes)
        card = RepoCard(self.tree.readme.source.decode(), ignore_metadata_errors=True)
        try:
            retry(lambda: card.validate(repo_type=self.kind), say=self.say)
        except ValueError as error:
            raise UserError(
                f"the Hub rejects the metadata of README.md: {_read_errors(str(error))}; nothing "
                "was uploaded"
            ) from error

    def _check_overwriting(self, before: Comparison, *, overwrite: bool) -> None:
        if before.besides:
            self.say(f"other files in the repository, which are kept: {_name_some(before.besides)}")
        changed = [entry.path for entry in before.changed]
        # The initial files of a new Space.
        alone = not before.equal and not before.besides
        fresh = self.kind == "space" and changed == ["README.md"] and alone
        if not changed or fresh:
            return
        if not overwrite:
            raise UserError(
                f"{self.repo} has different content in {_name_some(changed)}: use --overwrite to "
                "replace it (the Hub keeps the old version in its history), or another --repo; "
                "nothing was uploaded"
            )
        self.say(f"replacing {_name_some(changed)}")

    def _is_tagged(self) -> bool:
        """Whether this content has the tag.

        Raises:
            UserError: the tag is on different content.
        """
        if not self._has_tag():
            return False
        there = self._compare(self.tag)
        if there.changed or there.missing:
            raise UserError(
                f"{self.repo} has a tag {self.tag} on different content: use another --tag; "
                "nothing was uploaded"
            )
        return True

    def _create(self, private: bool | None, sdk: str | None) -> None:
        create = self.api.create_repo
        retry(
            # A response may have been lost: an existing tag is not an error.
            lambda: create(
                self.repo, repo_type=self.kind, private=private, space_sdk=sdk, exist_ok=True
            ),
            say=self.say,
        )
        self.say(f"created {self._locate()}")

    def _commit(self, entries: Sequence[TreeFile]) -> None:
        """Send the entries that the Hub's store lacks, then commit them."""
        self.begun = True
        additions = [CommitOperationAdd(entry.path, entry.source) for entry in entries]
        self.say(f"sending {_name_some([entry.path for entry in entries])}")
        # This retries by itself; the commit does not.
        self.api.preupload_lfs_files(self.repo, additions, repo_type=self.kind)
        title = f"Add {_name_some([entry.path for entry in entries])}"

        def commit() -> str:
            done = self.api.create_commit(
                self.repo, additions, commit_message=title, repo_type=self.kind
            )
            return str(done.oid)

        def look() -> str | None:
            found = compare_files(entries, self._read(MAIN))
            return "" if len(found.equal) == len(entries) else None

        retry(commit, say=self.say, done=look)
        self.there += len(entries)

    def _check_all(self) -> tuple[str, Comparison]:
        """The latest commit, if it contains every file unchanged.

        Raises:
            UserError: names a file that differs.
        """
        about = retry(
            lambda: self.api.repo_info(self.repo, repo_type=self.kind, revision=MAIN), say=self.say
        )
        after = self._compare(str(about.sha))
        for wrong, what in ((after.missing, "is not there"), (after.changed, "differs")):
            if wrong:
                raise UserError(
                    f"{wrong[0].path} {what} in {self.repo} after the upload (size or SHA-256): it "
                    "may have been changed here or there in the meantime. No tag was set; run the "
                    "same command again"
                )
        self.there = len(after.equal)
        return str(about.sha), after

    def _set_tag(self, commit: str) -> None:
        def create() -> bool:
            self.api.create_tag(self.repo, tag=self.tag, revision=commit, repo_type=self.kind)
            return True

        retry(create, say=self.say, done=lambda: self._has_tag() or None)

    def _has_tag(self) -> bool:
        refs = retry(lambda: self.api.list_repo_refs(self.repo, repo_type=self.kind), say=self.say)
        return any(ref.name == self.tag for ref in refs.tags)

    def _compare(self, revision: str) -> Comparison:
        return compare_files(self.tree.entries, self._read(revision))

    def _read(self, revision: str) -> dict[str, RepoFile]:
        return retry(lambda: read_files(self.api, self.repo, self.kind, revision), say=self.say)

    def _locate(self) -> str:
        prefix = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{hide_credentials(self.api.endpoint)}/{prefix}{self.repo}"


def _name_some(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:_MOST_NAMES])
    more = len(paths) - _MOST_NAMES
    return f"{shown} and {more:,} more" if more > 0 else shown


def _read_errors(text: str) -> str:
    """The error messages in the Hub's response, or its text."""
    try:
        found = [str(error["message"]) for error in json.loads(text)["errors"]]
    except (ValueError, KeyError, TypeError):
        found = [text]
    return " ".join("; ".join(found).split())[:300]
