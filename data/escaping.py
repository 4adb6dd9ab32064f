"""Escaping names and texts from files or users, so that they are always shown as text."""

from __future__ import annotations

import os
import re
from pathlib import Path

# A single underscore within a word is literal everywhere.
_MARKUP = re.compile(r"([\\`*\[\]|~$!]|(?<![^\W_])_|_(?![^\W_]))")
# At the start of a line these would begin a heading, a list or a rule.
_START = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$)))?([#+=.)-])")
# GitHub and the Hub turn these into links or mentions.
_LINKS = (("://", ":&#47;&#47;"), ("@", "&#64;"))
_HOST = re.compile(r"(www)\.", re.IGNORECASE)
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    # At the end of a row these would belong to it.
    "[": "{[}",
    "*": "{*}",
} | {letter: f"\\{letter}" for letter in "{}$&#%_"}


def show_name(name: str) -> str:
    """A file name on one line: characters that do not print or reverse the text are escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in name
    )


def drop_folder(name: str) -> str:
    """The last part of an absolute path, all that is useful elsewhere; other names unchanged."""
    if os.path.isabs(name) or name.startswith("~"):
        return os.path.basename(os.path.normpath(name)) or "."
    return name


def escape_markdown(text: str) -> str:
    """`text` on one line, shown literally, also in a table cell: no HTML, no Markdown, no links."""
    line = show_name(" ".join(text.split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _START.sub(r"\1\\\2", _MARKUP.sub(r"\\\1", line))
    for found, entity in _LINKS:
        line = line.replace(found, entity)
    return _HOST.sub(r"\1&#46;", line)


def escape_latex(text: str) -> str:
    """One line that LaTeX typesets literally."""
    line = "".join(_LATEX.get(letter, letter) for letter in show_name(text))
    # Two of them together would be a dash.
    return re.sub(r"-(?=-)", "-{}", line)


def shown(path: Path) -> str:
    """A path for messages: relative if it is below the current folder."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)
