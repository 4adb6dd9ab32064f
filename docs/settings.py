"""Writes settings.md, the reference of all settings, from vse/recipes/settings.py.

    python docs/settings.py

A setting's meaning is the comment behind it; what is said of all together is the class's docstring.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from pathlib import Path
from typing import Any

from vse.recipes import Recipe
from vse.recipes.files import read_recipe, resolve
from vse.runs.config import FREE

PAGE = Path(__file__).with_suffix(".md")
FIELD = re.compile(r"^    (\w+): .*?(?:  # (.+))?$")
ENTRY = re.compile(r"^(?=[\w-]+(?:, \w+)?: )", re.MULTILINE)
HEAD = """# Settings

Written by `python docs/settings.py` from `vse/recipes/settings.py`; a test fails when it is out of
date. How a recipe is made of settings: [training.md](training.md#recipes). What they do to the
model: [method.md](method.md).

A setting is called `section.name`; on the command line, `--set section.name=value`. Where the
recipe `paper` differs from the default, it says so.
"""


def write_page() -> str:
    """The whole page, Markdown."""
    hints = typing.get_type_hints(Recipe)
    every = [field.name for field in dataclasses.fields(Recipe)]
    sections = [name for name in every if dataclasses.is_dataclass(hints[name])]
    top = [name for name in every if name not in sections]
    paper = resolve(read_recipe("paper"), stage="2").to_dict()
    parts = [HEAD, *table(Recipe, paper, prefix="", names=top)]
    for name in sections:
        cls = hints[name]
        parts += ["", f"## {name}", "", *introduce(cls), ""]
        parts += table(cls, paper[name], prefix=f"{name}.")
    free = ", ".join(f"`{section}.{key}`" for section, keys in FREE.items() for key in keys)
    parts += [
        "",
        "## What may change while a run is continued",
        "",
        f"{free}. Everything else is part of the run: another value makes another run, which needs",
        "another `--out`.",
    ]
    return "\n".join(parts) + "\n"


def introduce(cls: type) -> list[str]:
    """A class's docstring; what it says of a name ("name: ...") becomes an item of a list."""
    lines = []
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        for part in ENTRY.split(paragraph):
            text = to_null(" ".join(part.split()))
            if text:
                name, _, rest = text.partition(": ")
                lines.append(f"- `{name}`: {rest}" if ENTRY.match(part) else text)
        lines.append("")
    return lines[:-1]


def table(
    cls: Any, paper: dict[str, Any], *, prefix: str, names: list[str] | None = None
) -> list[str]:
    """A row for each setting of a dataclass, or for `names` of them."""
    meanings, hints = read_comments(cls), typing.get_type_hints(cls)
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        if names is not None and field.name not in names:
            continue
        default = to_yaml(field.default)
        if to_yaml(paper[field.name]) != default:
            default += f" (paper: {to_yaml(paper[field.name])})"
        cells = (f"`{prefix}{field.name}`", type_name(hints[field.name]), default)
        rows.append(f"| {' | '.join(cells)} | {meanings.get(field.name, '')} |")
    return rows


def read_comments(cls: type) -> dict[str, str]:
    """The comment behind each field; "|" between values becomes "/", for the table's sake."""
    found = {}
    for line in inspect.getsource(cls).splitlines():
        match = FIELD.match(line)
        if match and match[2]:
            found[match[1]] = to_null(match[2].replace(" | ", " / "))
    return found


def type_name(hint: Any) -> str:
    """As one would say it of YAML."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(type_name(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"list of {type_name(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return "mapping"
    return {type(None): "null", str: "text"}.get(hint, getattr(hint, "__name__", str(hint)))


def to_null(text: str) -> str:
    """What is None in Python is null in YAML."""
    return re.sub(r"\bNone\b", "null", text)


def to_yaml(value: Any) -> str:
    """A value as it stands in a recipe."""
    return json.dumps(value) if not isinstance(value, str) else value


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
