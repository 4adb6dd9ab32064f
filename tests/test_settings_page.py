"""docs/settings.md says what vse/recipes/settings.py says, of every setting."""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import pytest

from vse.recipes import Recipe

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "settings.py"))


def test_the_page_is_up_to_date(script: dict[str, Any]) -> None:
    written = (DOCS / "settings.md").read_text()
    assert written == script["write_page"](), "settings have changed: run `python docs/settings.py`"


def test_every_setting_has_a_row_with_a_meaning(script: dict[str, Any]) -> None:
    rows: dict[str, str] = {}
    for line in script["write_page"]().splitlines():
        if line.startswith("| `"):
            name, _, _, meaning = (cell.strip() for cell in line.strip("|").split(" | "))
            rows[name.strip("`")] = meaning
    wanted = set()
    for field in dataclasses.fields(Recipe):
        section = script["typing"].get_type_hints(Recipe)[field.name]
        if dataclasses.is_dataclass(section):
            wanted |= {f"{field.name}.{part.name}" for part in dataclasses.fields(section)}
        else:
            wanted.add(field.name)
    assert set(rows) == wanted
    assert [name for name, meaning in rows.items() if not meaning] == []


@dataclasses.dataclass
class Part:
    """Of a model.

    kind: one | two, as
    the case may be.
    """

    kind: str = "one"  # one | two
    size: int | None = None  # None = all


def test_comments_and_docstring_become_table_and_list(script: dict[str, Any]) -> None:
    said = "- `kind`: one | two, as the case may be."
    assert script["introduce"](Part) == ["Of a model.", "", said]
    assert script["table"](Part, {"kind": "two", "size": None}, prefix="part.")[2:] == [
        "| `part.kind` | text | one (paper: two) | one / two |",
        "| `part.size` | int or null | null | null = all |",
    ]
