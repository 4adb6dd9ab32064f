"""The options that all kinds of publishing have in common, and what they do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from data.errors import UsageError
from pipelines.console.command_line import say as console_say
from pipelines.hub.folder import write_tree
from pipelines.hub.listing import describe_tree, format_tree
from pipelines.hub.names import check_repo, check_tag
from pipelines.hub.tree import Tree

say = partial(console_say, command="publish")
Command = TypeVar("Command", bound=Callable[..., Any])


def _check_repo(ctx: click.Context, param: click.Parameter, value: str) -> str:
    return check_repo(value)


def _check_tag(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    return value if value is None else check_tag(value)


_OPTIONS = (
    click.option("--repo", required=True, metavar="OWNER/NAME", callback=_check_repo,
                 help="The repository on the Hub; created if it is not there."),
    click.option("--private/--public", "private", default=None,
                 help="Who may see it.  [default: as the owner's settings have it]"),
    click.option("--tag", callback=_check_tag,
                 help="Name for this state of it.  [default: one made of the content]"),
    click.option("--update", is_flag=True,
                 help="Replace files that are there with other content."),
    click.option("--dry-run", is_flag=True,
                 help="List what would be uploaded; the Hub is not asked."),
    click.option("--to-dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                 help="Write the files into a folder; the Hub is not asked."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)  # fmt: skip


def publishing_options(function: Command) -> Command:
    """Attach `repo`, `private`, `tag`, `update`, `dry_run`, `to_dir`, `as_json`, for `share`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def share(
    tree: Tree,
    *,
    kind: str,
    repo: str,
    private: bool | None,
    tag: str | None,
    update: bool,
    dry_run: bool,
    to_dir: Path | None,
    as_json: bool,
    sdk: str | None = None,
) -> None:
    """List the tree, write it into a folder, or upload it; the result is printed.

    Raises:
        UserError: what `write_tree` or `upload` raise.
    """
    if dry_run and to_dir is not None:
        raise UsageError("--dry-run writes nothing: leave out --to-dir")
    about: dict[str, Any] = {"repo": repo, "kind": kind}
    if dry_run or to_dir is not None:
        if to_dir is not None:
            write_tree(tree, to_dir)
        last = "dry run: nothing was written" if to_dir is None else f"written to {to_dir}"
        about |= {"dry_run": dry_run, "to_dir": to_dir and str(to_dir), **describe_tree(tree)}
        _print(about, [*format_tree(tree), last], as_json=as_json)
        return
    # Imports the Hub's client.
    from pipelines.hub.upload import upload

    done = upload(
        tree, repo=repo, kind=kind, private=private, tag=tag, say=say, update=update, sdk=sdk
    )
    sent, files = len(done.uploaded), len(tree.entries)
    line = (
        f"{done.url} has all {files:,} files at tag {done.tag} ({sent:,} uploaded, "
        f"{files - sent:,} were there)"
    )
    _print(about | asdict(done), [line], as_json=as_json)


def _print(about: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    click.echo(json.dumps(about, indent=2) if as_json else "\n".join(lines))
