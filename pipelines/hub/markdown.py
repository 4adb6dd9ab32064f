"""Texts of others in Markdown: names, prompts and captions stay text, whatever they look like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from data.escaping import escape_markdown, show_name


class Markdown(str):
    """Text that is Markdown already and is not escaped by a template."""

    __slots__ = ()


def escape(text: str) -> Markdown:
    """`text` on one line, to be read as it is: no HTML, no Markdown, no links."""
    return Markdown(escape_markdown(text))


def fence(text: str, kind: str = "") -> Markdown:
    """`text` as a block of code whose end it cannot contain; its lines are kept."""
    lines = [show_name(line) for line in text.splitlines()] or [""]
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return Markdown("\n".join([marks + kind, *lines, marks]))


def draw_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Markdown:
    """A table; every cell is escaped unless it is Markdown."""
    lines = [head, [Markdown("---")] * len(head), *rows]
    return Markdown("\n".join(f"| {' | '.join(map(_finish, cells))} |" for cells in lines))


def render(template: Path, values: Mapping[str, Any]) -> str:
    """A Jinja template of Markdown; what it is given is escaped, and never a template itself.

    Raises:
        jinja2.UndefinedError: the template asks for what is not in `values`.
    """
    environment = Environment(
        undefined=StrictUndefined,
        finalize=_finish,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(template.read_text("utf-8")).render(values)


def _finish(value: object) -> str:
    if isinstance(value, Markdown):
        return value
    return escape(str(value)) if isinstance(value, str) else str(value)
