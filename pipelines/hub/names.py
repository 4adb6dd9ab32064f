"""Names that the Hub takes, looked at before anything is done."""

from __future__ import annotations

import re

from data.errors import UserError

# What git takes as a name of a tag, and no more than that.
_TAG = re.compile(r"(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)))[A-Za-z0-9_][\w.+/-]*(?<![./])", re.ASCII)


def check_repo(repo: str) -> str:
    """`repo`, if it is OWNER/NAME.

    Raises:
        UserError: the Hub would not take the name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--repo {repo!r} is no name for a repository: {reason}", exit_code=2
        ) from error
    if "/" not in repo:
        raise UserError(f"--repo {repo} does not say whose it is: give OWNER/NAME", exit_code=2)
    return repo


def check_tag(tag: str) -> str:
    """`tag`, if git takes it.

    Raises:
        UserError: it does not.
    """
    if not _TAG.fullmatch(tag) or tag == "main":
        raise UserError(
            f"--tag {tag!r} is no name for a tag: use letters, digits, '.', '-', '_'", exit_code=2
        )
    return tag


def check_licence(licence: str | None, *, of: str) -> str:
    """`licence`, if it is the name of one.

    Args:
        of: what is under it, and what it depends on.

    Raises:
        UserError: it is missing, or looks like no name.
    """
    if not licence:
        raise UserError(
            f"--license is missing: say under which licence {of}, as the Hub names it (apache-2.0, "
            "cc-by-4.0, other, ...)",
            exit_code=2,
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise UserError(
            f"{licence!r} is no name of a licence on the Hub: apache-2.0, cc-by-4.0, other",
            exit_code=2,
        )
    return licence
