"""The command line: arguments, messages on stderr, and results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TextIO

import click
from click.core import ParameterSource

from data.errors import UsageError
from data.escaping import show_name
from pipelines.console.verbosity import find_info_stream


def say(line: str) -> None:
    """A line of information on stderr; none with --quiet."""
    write_line(line, find_info_stream())


def write_line(line: str, stream: TextIO | None = None) -> None:
    """A line on stderr, or on another stream."""
    stream = stream or sys.stderr
    # Names and reasons come from files and must not move the terminal's cursor. Write in one piece,
    # since threads print too.
    stream.write(f"{show_name(line)}\n")
    stream.flush()


def print_result(about: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print the result of a command to stdout, as JSON or as lines of text."""
    print_text(json.dumps(about, indent=2, default=str) if as_json else lines)


def print_text(text: str | Iterable[str]) -> None:
    """Print a text, or lines, to stdout."""
    # Not splitlines(), which splits at characters that have to be escaped.
    lines = text.removesuffix("\n").split("\n") if isinstance(text, str) else text
    click.echo("\n".join(map(show_name, lines)))


def print_dry_run(paths: Sequence[str], *, as_json: bool) -> None:
    """What a command would write."""
    about = {"dry_run": True, "writes": list(paths)}
    print_result(about, [f"dry run: would write {', '.join(paths)}"], as_json=as_json)


def refuse_empty(words: Sequence[str]) -> None:
    """UsageError for an empty argument, such as an unset shell variable."""
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        joined = bool(equals) and name.startswith("--")
        if (value if joined else word).strip():
            continue
        what = name if joined else before if before.startswith("-") else "an argument"
        raise UsageError(f"{what} is empty (is a shell variable unset?): set it, or omit it")


def find_words() -> tuple[str, ...]:
    """The words after `d2s`; empty if the command was not called through it."""
    context = click.get_current_context(silent=True)
    words = context.find_root().obj if context is not None else None
    return words if isinstance(words, tuple) else ()


def repeat_arguments(*, leave_out: Collection[str]) -> list[str]:
    """The arguments of the current command, without the options in `leave_out`."""
    context = click.get_current_context()
    found: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not typed or name in leave_out:
            continue
        value = context.params[name]
        many = isinstance(value, tuple) and getattr(option, "multiple", False)
        for each in value if many else [value]:
            words = each if isinstance(each, tuple) else (each,)
            found += [option.opts[0], *([] if each is True else map(str, words))]
    return found
