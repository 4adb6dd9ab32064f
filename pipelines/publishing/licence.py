"""The licence under which something is shared: its owner has to say it."""

from __future__ import annotations

import re

from data.errors import UserError


def check_licence(licence: str | None, *, of: str, depends_on: str, such_as: str) -> str:
    """`licence`, if it may be the name of one.

    Args:
        of: what is shared.
        depends_on: whose licences decide.
        such_as: names to give as examples.

    Raises:
        UserError: none was given, or it is no name.
    """
    if not licence:
        raise UserError(
            f"--license is missing: say under which licence the {of} may be used, as the Hub names "
            f"it ({such_as}, other, ...); it depends on {depends_on}",
            exit_code=2,
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise UserError(
            f"--license {licence!r} is no name of a licence on the Hub: {such_as}, other",
            exit_code=2,
        )
    return licence
