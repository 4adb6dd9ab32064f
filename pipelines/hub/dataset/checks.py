"""Checks before a run is published: complete, unchanged, no passwords, few errors and flags."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from captioner.store.verification import verify_run
from data.dense.shards import read_rows
from data.errors import UserError
from pipelines.pages.review.rows import RunRows

# Between the scheme and the host.
_USER = r"^\w+://[^/?#\s]*@"


def check_whole(directory: Path) -> None:
    """Verify every shard by its receipt, its rows by the plan.

    Raises:
        UserError: something is missing or was changed; names the first problem.
    """
    found = verify_run(directory)
    if found.ok:
        return
    more = len(found.problems) - 1
    tail = f" (and {more:,} more: `d2s verify` lists them)" if more else ""
    raise UserError(
        f"{directory} does not match its records: {found.problems[0]}{tail}; nothing was "
        "published. Delete the changed files and run the same `d2s caption` command again to "
        "rewrite them"
    )


def check_addresses(directory: Path) -> None:
    """Look for a user's name or password in the addresses of the images.

    Raises:
        UserError: there is one; shards and their rows are published unchanged.
    """
    columns = ("file_name", "image_url")
    table = read_rows(directory, columns)
    opening = [pc.match_substring_regex(table.column(name), _USER) for name in columns]
    count = pc.sum(pc.or_kleene(*opening)).as_py() or 0
    if count:
        raise UserError(
            f"addresses of images in {directory} have a user's name or password in them (rows: "
            f"{count:,}), which would be published: caption from addresses without them, or from a "
            "folder of the images"
        )


def check_rows(rows: RunRows, *, max_errors: float, max_flagged: float) -> None:
    """Compare the shares of error rows and flagged texts with the limits.

    Raises:
        UserError: a limit is exceeded, or there is no text at all.
    """
    count = len(rows.statuses)
    errors = sum(status != "ok" for status in rows.statuses)
    flagged = sum(bool(names) for names in rows.flags)
    if errors == count:
        raise UserError(f"none of the {count:,} rows has a text: there is nothing to publish")
    if errors > max_errors * count:
        raise UserError(
            f"{errors:,} of {count:,} rows are errors ({errors / count:.1%}, --max-errors allows "
            f"{max_errors:.1%}): review them with `d2s review --flag error`, try them again with "
            "`d2s caption --retry-errors` and its other options, or allow more"
        )
    texts = count - errors
    if flagged > max_flagged * texts:
        raise UserError(
            f"{flagged:,} of {texts:,} texts are flagged ({flagged / texts:.1%}, --max-flagged "
            f"allows {max_flagged:.1%}): review them with `d2s review`, caption into another "
            "folder with `d2s caption --retry-flagged`, or allow more"
        )
