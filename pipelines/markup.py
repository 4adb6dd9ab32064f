"""Texts that came from files or a user, as text in Markdown and in LaTeX: never as markup."""

from __future__ import annotations

import re

from pipelines.contact.facts import show_name

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
} | {letter: f"\\{letter}" for letter in "{}$&#%_"}


def escape_markdown(text: str) -> str:
    """One line for a cell of a table: no bar, no markup, no HTML, nothing that does not print."""
    shown = show_name(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!$@])", r"\\\1", shown)


def escape_latex(text: str) -> str:
    """One line that LaTeX sets as it is written here."""
    return "".join(_LATEX.get(letter, letter) for letter in show_name(text))
