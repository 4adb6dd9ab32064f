"""Escaping names, prompts and captions in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from data.escaping import escape_markdown, show_name


class Markdown(str):
    """Text that is already Markdown and is not escaped by templates."""

    __slots__ = ()


def escape(text: str) -> Markdown:
    """`text` on one line, shown literally: no HTML, no Markdown, no links."""
    return Markdown(escape_markdown(text))


def fence(text: str, kind: str = "") -> Markdown:
    """`text` as a code block, with a fence that it does not contain."""
    lines = [show_name(line) for line in text.splitlines()] or [""]
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return Markdown("\n".join([marks + kind, *lines, marks]))


def draw_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Markdown:
    """A table; every cell is escaped unless it is Markdown."""
    lines = [head, [Markdown("---")] * len(head), *rows]
    return Markdown("\n".join(f"| {' | '.join(map(_finish, cells))} |" for cells in lines))


def render(template: Path, values: Mapping[str, Any]) -> str:
    """Render a Jinja template of Markdown; values are escaped and never evaluated.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not in `values`.
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
