"""The shared options of all publish commands, and their implementation."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from data.errors import UsageError, UserError
from pipelines.console.command_line import print_result, say
from pipelines.console.options import shared
from pipelines.console.outputs import OUTPUT_FOLDER
from pipelines.hub.tree import Tree, describe_tree, format_tree, write_tree

Command = TypeVar("Command", bound=Callable[..., Any])


# Valid git tag names.
_TAG = re.compile(r"(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)))[A-Za-z0-9_][\w.+/-]*(?<![./])", re.ASCII)


def check_repo(repo: str) -> str:
    """`repo`, if it is OWNER/NAME.

    Raises:
        UserError: the Hub would not accept the name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--repo {repo!r} is not a name for a repository: {reason}", exit_code=2
        ) from error
    if "/" not in repo:
        raise UserError(f"--repo {repo} has no owner: use OWNER/NAME", exit_code=2)
    return repo


def check_tag(tag: str) -> str:
    """`tag`, if git takes it.

    Raises:
        UserError: it does not.
    """
    if not _TAG.fullmatch(tag) or tag == "main":
        raise UserError(
            f"--tag {tag!r} is not a name for a tag: use letters, digits, '.', '-', '_'",
            exit_code=2,
        )
    return tag


def check_licence(licence: str | None, *, of: str) -> str:
    """Return `licence` if it is the name of one.

    Args:
        of: what it applies to, and what it depends on.

    Raises:
        UserError: it is missing or not a valid name.
    """
    if not licence:
        raise UserError(
            f"--license is missing: specify the license under which {of}, as the Hub names it "
            "(apache-2.0, "
            "cc-by-4.0, other, ...)",
            exit_code=2,
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise UserError(
            f"{licence!r} is not the name of a license on the Hub: apache-2.0, cc-by-4.0, other",
            exit_code=2,
        )
    return licence


def _check(check: Callable[[str], str]) -> Callable[..., str | None]:
    return lambda ctx, param, value: None if value is None else check(value)


_OPTIONS = (
    click.option("--repo", required=True, metavar="OWNER/NAME", callback=_check(check_repo),
                 help="Repository on the Hub; created if it does not exist."),
    click.option("--private/--public", "private", default=None,
                 help="Who can see a new repository.  [default: as set for the owner]"),
    click.option("--tag", callback=_check(check_tag),
                 help="Name of the tag to set.  [default: derived from the content]"),
    click.option("--overwrite", is_flag=True,
                 help="Replace files in the repository whose content differs."),
    shared("dry-run", help="List the files that would be uploaded; the Hub is not contacted."),
    click.option("--to-dir", type=OUTPUT_FOLDER, metavar="DIR",
                 help="Write the files to this folder instead; the Hub is not contacted."),
    shared("json"),
)  # fmt: skip


@dataclass(frozen=True)
class Publishing:
    """The values of the shared options; `private` is None if the Hub decides."""

    repo: str
    private: bool | None
    tag: str | None
    overwrite: bool
    dry_run: bool
    to_dir: Path | None
    as_json: bool


def publishing_options(function: Command) -> Command:
    """Attach the fields of `Publishing` to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def share(tree: Tree, asked: Publishing, *, kind: str, sdk: str | None = None) -> None:
    """List the tree, write it into a folder, or upload it; the result is printed.

    Raises:
        UserError: as `write_tree` and `upload` do.
    """
    folder = asked.to_dir
    if asked.dry_run and folder is not None:
        raise UsageError("--dry-run writes nothing: omit --to-dir")
    about: dict[str, Any] = {"repo": asked.repo, "kind": kind}
    if asked.dry_run or folder is not None:
        if folder is not None:
            write_tree(tree, folder)
        last = "dry run: nothing was written" if folder is None else f"written to {folder}"
        about |= {"dry_run": asked.dry_run, "to_dir": folder and str(folder), **describe_tree(tree)}
        print_result(about, [*format_tree(tree), last], as_json=asked.as_json)
        return
    # This imports the Hub's client.
    from pipelines.hub.upload import upload

    done = upload(
        tree,
        repo=asked.repo,
        kind=kind,
        private=asked.private,
        tag=asked.tag,
        say=say,
        overwrite=asked.overwrite,
        sdk=sdk,
    )
    sent, files = len(done.uploaded), len(tree.entries)
    line = (
        f"{done.url} has all {files:,} files at tag {done.tag} ({sent:,} uploaded, "
        f"{files - sent:,} were there)"
    )
    print_result(about | asdict(done), [line], as_json=asked.as_json)
