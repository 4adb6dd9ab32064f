"""axe-core, where it is installed: `npm install --no-save axe-core` in the repository."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import pytest

from tests.documents import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

_AXE = ROOT / "node_modules/axe-core/axe.min.js"


def find_faults(page: Page, *, leave_out: Collection[str] = ()) -> list[str]:
    """What axe-core finds, by rule and element, without the rules in `leave_out`.

    Skips the test where there is no axe-core. The page must bypass its own policy of scripts.
    """
    if not _AXE.is_file():
        pytest.skip("axe-core is not installed: npm install --no-save axe-core")
    page.evaluate(_AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['target']}" for one in found if one["id"] not in leave_out
    ]
