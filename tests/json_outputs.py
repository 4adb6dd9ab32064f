"""What docs/json.md says of the JSON that a command prints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.documents import ROOT

_PAGE = ROOT / "docs/json.md"
_ROW = re.compile(r"^\| (`.+?`) \| ([a-z ]*?) ?\| .*\|$", re.MULTILINE)


def read_keys(command: str) -> dict[str, str]:
    """Each documented key of a command, and when it is there: "" for always."""
    for heading, text in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", _PAGE.read_text(), re.M):
        if command in heading.split(", "):
            rows = _ROW.findall(text)
            return {key: when for cell, when in rows for key in re.findall(r"`(\w+)`", cell)}
    raise AssertionError(f"docs/json.md has no section for {command}")


def check_json(command: str, found: Mapping[str, object], *, dry_run: bool = False) -> None:
    """Every key is documented, and every documented key is there.

    Raises:
        AssertionError: one is not.
    """
    keys = read_keys(command)
    now = {"", "dry run" if dry_run else "result"}
    needed = {key for key, when in keys.items() if when in now}
    allowed = needed | {key for key, when in keys.items() if when == "sometimes"}
    # What run.json holds is documented with the run.
    unknown = set() if command == "import" and not dry_run else set(found) - allowed
    assert needed <= set(found) and not unknown, (needed - set(found), unknown)
